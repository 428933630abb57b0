"""Readers report what cannot be read in one line."""

from hf_llm.data.readers import READERS, read_documents


def test_the_error_of_a_url_has_no_secrets(tmp_path, monkeypatch):
    """However long the URL is: secrets are removed before the message is shortened."""
    secret = "s3cr3t" * 40

    def fail(path, field):
        raise OSError(f"cannot open '{path}' nor http://jo:{secret}@127.0.0.1/x?token={secret}")

    monkeypatch.setitem(READERS, ".txt", fail)
    path = f"http://127.0.0.1/{'deep/' * 40}a.txt?token={secret}"
    ((_, problems),) = read_documents(path, "text")
    assert "s3cr3t" not in problems[0].replace(path, "") and "the file" in problems[0]

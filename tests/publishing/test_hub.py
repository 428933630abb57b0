"""A push is complete, verified and private; the huggingface_hub client talks to `hub_server.HubServer`."""

import json
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import HubServer
from huggingface_hub import HfApi, constants
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_llm.arguments import TextArguments
from hf_llm.publishing.card import write_model_card
from hf_llm.publishing.hub import check_private, dataset_names, push_folder

# huggingface_hub 2.4 sends LFS files in a way that its HTTP client has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TEXT = "the cat sat on the mat"
LOAD_AND_SCORE = f"""
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
torch.save(model(**tokenizer({TEXT!r}, return_tensors="pt", return_token_type_ids=False)).logits, sys.argv[2])
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Hub on this machine to which this process's client is logged in."""
    with HubServer() as server:
        for name, value in server.env(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        # The client read these from the environment when it was imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server
        huggingface_hub.close_session()


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory) -> Path:
    """The folder of a tiny model as after a run: model, tokenizer, results, and other files that a Trainer leaves."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-llama"
    vocab = {word: number for number, word in enumerate(["<unk>", *dict.fromkeys(TEXT.split())])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(vocab), **sizes)).save_pretrained(folder)
    (folder / "all_results.json").write_text('{"perplexity": 12.5}')
    (folder / "checkpoint-10").mkdir()
    for name in ("model.safetensors", "optimizer.pt", "config.json"):
        (folder / "checkpoint-10" / name).write_bytes(b"unfinished")
    (folder / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": str(folder)}))
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", ".lock", "_lock", "config.json.tmp"):
        (folder / name).write_bytes(b"not part of the result")
    return folder


@pytest.fixture
def folder(trained_folder, tmp_path) -> Path:
    """A copy of `trained_folder` that a test may change."""
    copy = tmp_path / trained_folder.name
    subprocess.run(["cp", "-r", trained_folder, copy], check=True)
    return copy


PUSHED = {"all_results.json", "config.json", "generation_config.json", "model.safetensors"} | {
    "tokenizer.json",
    "tokenizer_config.json",
}


def push(folder: Path, repo_id: str | None = "user/tiny", private: bool | None = None, **arguments) -> str:
    return push_folder(folder, repo_id, private=private, commit_message="1000 steps", **arguments)


def test_pushed_files_equal_the_local_ones_in_a_private_repository(server, trained_folder):
    """By default every final file arrives unchanged, and only the owner can see the repository."""
    url = push(trained_folder)
    repo = server.repos["user/tiny"]
    assert url == f"{server.endpoint}/user/tiny"
    assert repo.private
    for name in PUSHED:
        assert repo.files()[name] == (trained_folder / name).read_bytes(), name
    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
        HfApi().model_info("user/tiny", token=False)


def test_checkpoints_pickles_and_temporary_files_are_never_pushed(server, trained_folder):
    """Only the final files are in the repository: no optimizer state, `training_args.bin` or local path."""
    push(trained_folder)
    assert server.repos["user/tiny"].files().keys() == PUSHED | {".gitattributes"}


def test_the_data_sets_of_a_mixture_are_named(tmp_path):
    """For the model card; the built-in sample is no data set of the Hub."""
    sources = ("a: {dataset_name: me/poems", "b: {train_file: b.txt", "c: {dataset_name: me/poems")
    (tmp_path / "mix.yaml").write_text("".join(f"{source}, weight: 1}}\n" for source in sources))
    assert dataset_names(TextArguments(mixture=f"{tmp_path / 'mix.yaml'}")) == ["me/poems", None]
    assert dataset_names(TextArguments(dataset_name="python_docs")) == [None]


def test_a_push_is_one_commit_with_its_message(server, trained_folder):
    """Readers see the old model or the new one, never half of it."""
    push(trained_folder)
    titles = [commit.title for commit in server.repos["user/tiny"].history()]
    assert titles == ["1000 steps", "initial commit"]


def test_a_pushed_model_gives_the_same_logits_in_a_new_process(server, trained_folder, tmp_path):
    """`from_pretrained(repo_id)` with only the token at hand computes the same as the local folder."""
    push(trained_folder)
    subprocess.run([sys.executable, "-c", LOAD_AND_SCORE, "user/tiny", "logits.pt"], check=True, cwd=tmp_path)
    inputs = AutoTokenizer.from_pretrained(trained_folder)(TEXT, return_tensors="pt", return_token_type_ids=False)
    local = LlamaForCausalLM.from_pretrained(trained_folder)(**inputs).logits
    assert torch.equal(torch.load(tmp_path / "logits.pt"), local)
    assert list((tmp_path / "home" / "hub").glob("models--user--tiny/snapshots/*/model.safetensors"))


def test_a_private_model_cannot_be_loaded_without_the_token(server, trained_folder, tmp_path):
    """The files are private too, not only the model's page."""
    push(trained_folder)
    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
        HfApi().hf_hub_download("user/tiny", "config.json", token=False, cache_dir=tmp_path / "other")


def test_the_repository_is_named_after_the_folder_by_default(server, trained_folder, monkeypatch):
    """Without a repository id the folder's name is used, under the user's own namespace, also for `.`."""
    assert push(trained_folder, repo_id=None) == f"{server.endpoint}/user/tiny-llama"
    monkeypatch.chdir(trained_folder)
    assert push(Path("."), repo_id=None) == f"{server.endpoint}/user/tiny-llama"


def test_a_push_is_public_only_with_private_false(server, trained_folder):
    """It makes the repository public, and a later push with the default refuses to publish there."""
    push(trained_folder, private=False)
    assert not server.repos["user/tiny"].private
    commits = server.repos["user/tiny"].history()
    with pytest.raises(ValueError, match="`user/tiny` is a public repository"):
        push(trained_folder)
    assert server.repos["user/tiny"].history() == commits


def test_a_revision_is_pushed_to_its_own_branch(server, trained_folder):
    """`revision` creates the branch if it is missing, and main is unchanged."""
    push(trained_folder, revision="step-1000")
    push(trained_folder, revision="step-1000")
    repo = server.repos["user/tiny"]
    assert repo.files("step-1000").keys() >= PUSHED
    assert repo.files("main").keys() == {".gitattributes"}


def test_a_second_push_removes_old_weights(server, folder):
    """After a single-file model has become a sharded one, `from_pretrained` cannot load the old file."""
    push(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    push(folder)
    weights = {name for name in server.repos["user/tiny"].files() if "safetensors" in name}
    assert weights == {"model-00001-of-00001.safetensors", "model.safetensors.index.json"}


def test_a_file_with_the_token_in_it_is_refused_before_any_request(server, folder):
    """The error names the file and not the token; the repository is not created."""
    (folder / "all_results.json").write_text(json.dumps({"arguments": ["--hub_token", server.token]}))
    with pytest.raises(ValueError, match=r"`all_results.json` contains the Hub token") as raised:
        push(folder)
    assert server.token not in str(raised.value)
    assert not server.requests


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_model_is_refused_before_any_request(server, folder, missing):
    """A folder without configuration or weights is a `ValueError`."""
    (folder / missing).unlink()
    with pytest.raises(ValueError, match="does not hold a complete model"):
        push(folder)
    assert not server.requests


def test_a_link_is_refused_before_any_request(server, folder, tmp_path):
    """It would publish a file from elsewhere."""
    (tmp_path / "private").write_text("private")
    (folder / "notes").symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match="`notes` is a symbolic link"):
        push(folder)
    assert not server.requests


def test_a_missing_shard_is_refused_before_any_request(server, folder):
    """A model is also incomplete if a shard in its index is missing."""
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"model-00002-of-00002.safetensors missing"):
        push(folder)
    assert not server.requests


@pytest.mark.parametrize("step", ["POST /api/repos/create", "PUT /lfs-objects", "POST /api/models/user/tiny/commit"])
def test_a_failed_push_is_an_error_of_one_line_with_the_command_that_pushes_again(server, folder, step):
    """Whichever step fails, the local results are complete, and the printed command pushes them as intended."""
    server.fail_on(step, 500 if "PUT" not in step else 403)  # the client retries a PUT after a 500 for seconds
    with pytest.raises(ConnectionError) as raised:
        push(folder)
    message = str(raised.value)
    assert "\n" not in message
    assert "arranged by the test" in message
    assert f"The local results in `{folder}` are complete." in message
    assert server.token not in message
    server.recover()
    hf = Path(sys.executable).with_name("hf")
    command = shlex.split(message.split("again with: ")[1])
    assert command[0] == "hf"
    subprocess.run([hf, *command[1:]], check=True, capture_output=True)
    repo = server.repos["user/tiny"]
    assert repo.private
    assert {name: repo.files()[name] for name in PUSHED} == {name: (folder / name).read_bytes() for name in PUSHED}
    assert repo.files().keys() == PUSHED | {".gitattributes"}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_arrives_changed_is_an_error(server, trained_folder, name):
    """Large files are compared by SHA-256 and small ones by Git hash, and one flipped bit is enough."""
    server.corrupt(name)
    with pytest.raises(ConnectionError, match=f"`{name}` on the Hub at commit .* differs .* again with: hf upload"):
        push(trained_folder)
    server.recover()
    push(trained_folder)
    assert server.repos["user/tiny"].files()[name] == (trained_folder / name).read_bytes()


def test_a_file_that_does_not_arrive_is_an_error(server, trained_folder):
    """Otherwise the Hub would have a model without weights."""
    server.lose("model.safetensors")
    with pytest.raises(ConnectionError, match=r"`model.safetensors` on the Hub at commit .* missing or differs"):
        push(trained_folder)


def test_the_error_of_a_wrong_token_says_how_to_log_in(server, trained_folder, monkeypatch):
    """Status 401 gives one line with the remedy and without the token; nothing is created."""
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConnectionError, match=r"Log in .* push again with: hf upload") as raised:
        push(trained_folder)
    assert "hf_wrong" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not server.repos


def test_without_a_network_the_error_is_one_line_too(server, trained_folder, monkeypatch):
    """It says that the local results are complete, and has the command for later."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port; nothing listens
    with pytest.raises(ConnectionError, match=r"are complete. Push again with: hf upload user/tiny") as raised:
        push(trained_folder)
    assert "\n" not in str(raised.value)


def test_an_invalid_repository_name_is_refused_before_any_request(server, trained_folder):
    """It is a `ValueError`, not a network problem."""
    with pytest.raises(ValueError, match="two words"):
        push(trained_folder, repo_id="user/two words")
    assert not server.requests


def test_the_model_card_is_pushed_with_the_model(server, folder):
    """A card written before the push is in the repository, without its temporary file."""
    write_model_card(folder, base_model=None, datasets=[], results={"perplexity": 12.5}, hyperparameters={})
    push(folder)
    assert server.repos["user/tiny"].files()["README.md"] == (folder / "README.md").read_bytes()
    assert not (folder / ".README.md.tmp").exists()


@pytest.mark.parametrize("answer", [b"<html>", b"", b"[]", b"null", b"{}", b'{"error": "x"}', b"3"])
def test_an_answer_that_is_not_a_hubs_is_one_line(trained_folder, answer, monkeypatch):
    """A page of a proxy, or JSON of another server: the address is named, and what to check."""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{other.server_port}"
        monkeypatch.setenv("HF_TOKEN", "hf_token")
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for ask in (lambda: push(trained_folder), lambda: check_private("user/tiny", True)):
            with pytest.raises(ConnectionError, match=f"the answer of `{endpoint}` is not a Hub's"):
                ask()
        other.shutdown()
        huggingface_hub.close_session()

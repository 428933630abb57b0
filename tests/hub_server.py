"""A small Hugging Face Hub on 127.0.0.1 for tests: repositories in memory, for the real huggingface_hub client.

    with HubServer() as server:
        environment = {**os.environ, **server.env(tmp_path)}
        subprocess.run([sys.executable, "push.py"], env=environment)
        assert server.repos["user/model"].private

Models and data sets are stored in the same way; a data set's key in `repos` starts with `datasets/`, as its URL does.
Xet is never offered: `env()` tells the client to use Git LFS over HTTP instead.
"""

import base64
import hashlib
import itertools
import json
import re
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

USER = "user"
DATE = "2026-01-01T00:00:00.000Z"
LFS_PATTERNS = ("*.safetensors", "*.bin", "*.parquet", "*.arrow", "*.gz", "*.zst", "*.gguf")
LFS_MIN_SIZE = 10 * 2**20  # bytes; the Hub takes nothing larger as a plain Git file


@dataclass(frozen=True)
class Blob:
    """One stored file; large and binary ones are Git LFS objects with a pointer file in Git."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @property
    def git_oid(self) -> str:
        data = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    @property
    def size(self) -> int:
        return len(self.content)


@dataclass(frozen=True)
class Commit:
    """A snapshot of a repository; `parent` None for the first."""

    oid: str
    title: str
    parent: "Commit | None"
    blobs: dict[str, Blob]


@dataclass
class Repo:
    """A repository: `branches` maps a name to its newest commit."""

    repo_id: str
    repo_type: str
    private: bool
    branches: dict[str, Commit] = field(default_factory=dict)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Path -> content at a branch or commit."""
        return {path: blob.content for path, blob in self.commit(revision).blobs.items()}

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits behind a branch or commit, newest first."""
        return list(_ancestors(self.commit(revision)))

    def commit(self, revision: str) -> Commit:
        if revision in self.branches:
            return self.branches[revision]
        for head in self.branches.values():
            for commit in _ancestors(head):
                if commit.oid == revision:
                    return commit
        raise HTTPFailure(404, f"Invalid rev id: {revision}", code="RevisionNotFound")

    def add_commit(self, branch: str, title: str, blobs: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        oid = hashlib.sha1(f"{self.repo_id} {branch} {next(_counter)} {title}".encode()).hexdigest()
        self.branches[branch] = Commit(oid, title, parent, blobs)
        return self.branches[branch]


_counter = itertools.count()


def _ancestors(commit: Commit | None) -> Iterator[Commit]:
    while commit is not None:
        yield commit
        commit = commit.parent


class HTTPFailure(Exception):
    """Answer with this status; `code` is what the client turns into an exception type."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **(headers or {})}
        if code:
            self.headers["X-Error-Code"] = code


@dataclass
class Request:
    """What a route's function gets: `groups` are the named, unquoted parts of the path."""

    method: str
    groups: dict[str, str]
    query: dict[str, list[str]]
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class Response:
    body: bytes
    headers: dict[str, str]
    status: int = 200


ROUTES = []
API = r"/api/(?P<repo_type>model|dataset)s/(?P<repo_id>[^/]+/[^/]+)"
WEB = r"/(?P<repo_type>datasets/)?(?P<repo_id>[^/]+/[^/]+)"


def route(methods: str, pattern: str):
    """Serve `METHOD path` with this `HubServer` method; every method but GET and HEAD needs the token."""

    def add(function):
        ROUTES.extend((method, re.compile(pattern), function) for method in methods.split())
        return function

    return add


class HubServer:
    """A Hub that accepts one token.

    `directory`: its folders `user/name/` and `datasets/user/name/` start as public repositories.
    Attributes for assertions: `repos` (key -> `Repo`) and `requests` (every "METHOD path" in order).
    """

    def __init__(self, directory: str | Path | None = None):
        self.token = "hf_" + hashlib.sha256(str(id(self)).encode()).hexdigest()[:34]
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        self._lfs_objects: dict[str, bytes] = {}
        self._failures: list[list] = []  # [substring of "METHOD path", status, how many times]
        self._corrupted: set[str] = set()
        self._lost: set[str] = set()
        self._lock = threading.RLock()
        for folder in Path(directory).glob("*/*") if directory else ():
            if folder.parent.name != "datasets":
                self.add_repo(f"{folder.parent.name}/{folder.name}", folder)
        for folder in Path(directory).glob("datasets/*/*") if directory else ():
            self.add_repo(f"{folder.parent.name}/{folder.name}", folder, repo_type="dataset")

    def __enter__(self) -> "HubServer":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        # A short poll: shutdown() waits for the next one, in every test.
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._http.shutdown()
        self._http.server_close()

    def env(self, home: str | Path, token: str | None = None) -> dict[str, str]:
        """Environment variables that point a new process at this server, with its caches in `home`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": token or self.token,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": f"{home}/hub",
            "HF_DATASETS_CACHE": f"{home}/datasets",
            "HF_TOKEN_PATH": f"{home}/token",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    # Arranging what a test needs

    def add_repo(
        self, repo_id: str, files: dict[str, bytes] | Path, repo_type: str = "model", private: bool = False
    ) -> Repo:
        """A repository with these files (path -> content, or a folder's) in its first commit."""
        if isinstance(files, Path):
            files = {str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()}
        repo = self.repos[self._key(repo_type, repo_id)] = Repo(repo_id, repo_type, private)
        repo.add_commit(
            "main", "initial commit", {path: Blob(data, _is_lfs(path, data)) for path, data in files.items()}
        )
        return repo

    def fail_on(self, substring: str, status: int, times: int | None = None) -> None:
        """Answer requests whose "METHOD path" contains the substring with this status; `times` None: until cleared."""
        self._failures.append([substring, status, times])

    def fail_next(self, status: int) -> None:
        """Answer the next request, whichever it is, with this status."""
        self.fail_on("", status, times=1)

    def corrupt(self, name: str) -> None:
        """Change one byte of this file when it is committed next, as a faulty store would."""
        self._corrupted.add(name)

    def lose(self, name: str) -> None:
        """Leave this file out when it is committed next, without an error."""
        self._lost.add(name)

    def recover(self) -> None:
        """End all failures, corruptions and losses."""
        self._failures.clear()
        self._corrupted.clear()
        self._lost.clear()

    # Accounts and repositories

    @route("GET", r"/api/whoami-v2")
    def whoami(self, request: Request) -> dict:
        if "authorization" not in request.headers:
            raise HTTPFailure(401, "Invalid username or password.")
        access = {"displayName": "test", "role": "write"}
        return {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token", "accessToken": access}}

    @route("POST", r"/api/repos/create")
    def create_repo(self, request: Request) -> Response:
        repo_type = request.json.get("type") or "model"
        repo_id = f"{request.json.get('organization') or USER}/{request.json['name']}"
        key = self._key(repo_type, repo_id)
        answer = json.dumps({"url": f"{self.endpoint}/{key}", "name": repo_id}).encode()
        if key in self.repos:
            return Response(answer, {}, status=409)
        private = request.json.get("visibility") == "private" or request.json.get("private", False)
        self.add_repo(repo_id, {".gitattributes": b"*.safetensors filter=lfs\n"}, repo_type, private)
        return Response(answer, {})

    @route("POST", r"/api/validate-yaml")
    def validate_yaml(self, request: Request) -> dict:
        if not request.json["content"].startswith("---\n"):
            return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
        return {"errors": [], "warnings": []}

    @route("GET", API)
    @route("GET", API + r"/revision/(?P<revision>[^/]+)")
    def repo_info(self, request: Request) -> dict:
        repo = self._repo(request)
        commit = repo.commit(request.groups.get("revision") or "main")
        return {
            "_id": repo.repo_id,
            "id": repo.repo_id,
            "author": repo.repo_id.split("/")[0],
            "sha": commit.oid,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "createdAt": DATE,
            "lastModified": DATE,
            "siblings": [{"rfilename": path} for path in commit.blobs],
        }

    @route("GET", API + r"/refs")
    def refs(self, request: Request) -> dict:
        heads = self._repo(request).branches.items()
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": head.oid} for name, head in heads]
        return {"branches": branches, "tags": [], "converts": []}

    @route("POST", API + r"/branch/(?P<revision>[^/]+)")
    def create_branch(self, request: Request) -> dict:
        repo, name = self._repo(request), request.groups["revision"]
        if name in repo.branches:
            raise HTTPFailure(409, f"Reference {name} already exists")
        repo.branches[name] = repo.commit(request.json.get("startingPoint") or "main")
        return {}

    @route("GET", API + r"/commits/(?P<revision>[^/]+)")
    def commits(self, request: Request) -> list:
        history = self._repo(request).history(request.groups["revision"])
        authors = [{"user": USER}]
        return [{"id": c.oid, "title": c.title, "message": "", "date": DATE, "authors": authors} for c in history]

    # Reading

    @route("GET", API + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?")
    def tree(self, request: Request) -> list:
        blobs = self._commit(request).blobs
        prefix = f"{request.groups['path']}/" if request.groups.get("path") else ""
        if prefix and not any(path.startswith(prefix) for path in blobs):
            raise HTTPFailure(404, "Entry not found", code="EntryNotFound")
        recursive = request.query.get("recursive", [""])[0].lower() in ("true", "1")
        return list(_entries(blobs, prefix, recursive).values())

    @route("POST", API + r"/paths-info/(?P<revision>[^/]+)")
    def paths_info(self, request: Request) -> list:
        is_form = "form" in request.headers.get("content-type", "")
        wanted = parse_qs(request.body.decode())["paths"] if is_form else request.json["paths"]
        entries = _entries(self._commit(request).blobs, "", recursive=True)
        return [entries[path] for path in wanted if path in entries]

    @route("GET HEAD", WEB + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, request: Request) -> Response:
        commit, path = self._commit(request), request.groups["path"]
        if path not in commit.blobs:
            raise HTTPFailure(404, "Entry not found", code="EntryNotFound", headers={"X-Repo-Commit": commit.oid})
        blob = commit.blobs[path]
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-Size": str(blob.size), "X-Linked-Etag": f'"{blob.etag}"'}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if not part:
            return Response(blob.content, headers)
        first, last = int(part[1]), min(int(part[2] or blob.size), blob.size - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{blob.size}"
        return Response(blob.content[first : last + 1], headers, status=206)

    # Writing

    @route("POST", API + r"/preupload/(?P<revision>[^/]+)")
    def preupload(self, request: Request) -> dict:
        stored = self._commit(request).blobs
        answer = []
        for file in request.json["files"]:
            path = file["path"]
            mode = "lfs" if _is_lfs(path, size=file["size"]) else "regular"
            oid = stored[path].etag if path in stored else None
            answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answer}

    @route("POST", WEB + r"\.git/info/lfs/objects/batch")
    def lfs_batch(self, request: Request) -> dict:
        self._repo(request)
        objects = []
        for wanted in request.json["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self._lfs_objects:
                upload, verify = f"{self.endpoint}/lfs-objects/{wanted['oid']}", f"{self.endpoint}/lfs-verify"
                entry["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
            objects.append(entry)
        return {"transfer": "basic", "objects": objects}

    @route("PUT", r"/lfs-objects/(?P<oid>[0-9a-f]{64})")
    def lfs_put(self, request: Request) -> dict:
        if hashlib.sha256(request.body).hexdigest() != request.groups["oid"]:
            raise HTTPFailure(400, "Content does not match its hash")
        self._lfs_objects[request.groups["oid"]] = request.body
        return {}

    @route("POST", r"/lfs-verify")
    def lfs_verify(self, request: Request) -> dict:
        if len(self._lfs_objects.get(request.json["oid"], b"")) != request.json["size"]:
            raise HTTPFailure(404, "Object not found")
        return {}

    @route("POST", API + r"/commit/(?P<revision>[^/]+)")
    def commit(self, request: Request) -> dict:
        repo, branch = self._repo(request), request.groups["revision"]
        if branch not in repo.branches:
            raise HTTPFailure(404, f"Invalid rev id: {branch}", code="RevisionNotFound")
        blobs, title = dict(repo.branches[branch].blobs), ""
        for line in request.body.splitlines():
            operation = json.loads(line)
            kind, value = operation["key"], operation["value"]
            if kind == "header":
                title = value["summary"]
            elif kind == "file":
                blobs[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif kind == "lfsFile":
                if value["oid"] not in self._lfs_objects:
                    raise HTTPFailure(400, f"{value['path']}: LFS object was never uploaded")
                blobs[value["path"]] = Blob(self._lfs_objects[value["oid"]], lfs=True)
            elif kind == "deletedFile":
                del blobs[value["path"]]
            elif kind == "deletedFolder":
                blobs = {path: blob for path, blob in blobs.items() if not path.startswith(value["path"])}
        for path in self._corrupted & blobs.keys():
            content = bytearray(blobs[path].content)
            content[-1] ^= 1
            blobs[path] = Blob(bytes(content), blobs[path].lfs)
        blobs = {path: blob for path, blob in blobs.items() if path not in self._lost}
        commit = repo.add_commit(branch, title, blobs)
        url = f"{self.endpoint}/{self._key(repo.repo_type, repo.repo_id)}/commit/{commit.oid}"
        return {"success": True, "commitUrl": url, "commitOid": commit.oid, "pullRequestUrl": None}

    # Behind the routes

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
        """The response to one request; never raises."""
        url = urlsplit(target)
        with self._lock:
            self.requests.append(f"{method} {url.path}")
            try:
                self._raise_arranged_failure(f"{method} {url.path}")
                for allowed, pattern, function in ROUTES:
                    if allowed == method and (match := pattern.fullmatch(url.path)):
                        self._check_token(method, url.path, headers)
                        groups = {name: unquote(text) for name, text in match.groupdict().items() if text}
                        result = function(self, Request(method, groups, parse_qs(url.query), headers, body))
                        return result if isinstance(result, Response) else _json(result)
                raise HTTPFailure(404, "Not found")
            except HTTPFailure as failure:
                return Response(json.dumps({"error": str(failure)}).encode(), failure.headers, failure.status)
            except Exception:
                return Response(traceback.format_exc().encode(), {}, 500)

    def _raise_arranged_failure(self, line: str) -> None:
        for failure in self._failures:
            substring, status, times = failure
            if substring in line and times != 0:
                failure[2] = times and times - 1
                raise HTTPFailure(status, "arranged by the test", headers={"Retry-After": "0"})  # the client retries

    def _check_token(self, method: str, path: str, headers: dict[str, str]) -> None:
        sent = headers.get("authorization")
        if sent is not None and sent != f"Bearer {self.token}":
            raise HTTPFailure(401, "Invalid credentials in Authorization header")
        # An LFS object goes to a signed URL, which the client calls without a token.
        if sent is None and method not in ("GET", "HEAD") and not path.startswith("/lfs-objects/"):
            raise HTTPFailure(401, "Invalid username or password.")

    def _repo(self, request: Request) -> Repo:
        repo_type = (request.groups.get("repo_type") or "model").removesuffix("s/")
        repo = self.repos.get(self._key(repo_type, request.groups["repo_id"]))
        logged_in = "authorization" in request.headers
        if repo is None or (repo.private and not logged_in):
            raise HTTPFailure(404 if logged_in else 401, "Repository not found", code="RepoNotFound")
        return repo

    def _commit(self, request: Request) -> Commit:
        return self._repo(request).commit(request.groups["revision"])

    @staticmethod
    def _key(repo_type: str, repo_id: str) -> str:
        return repo_id if repo_type == "model" else f"{repo_type}s/{repo_id}"


def _is_lfs(path: str, content: bytes = b"", size: int = 0) -> bool:
    return max(size, len(content)) >= LFS_MIN_SIZE or any(fnmatch(path, pattern) for pattern in LFS_PATTERNS)


def _entries(blobs: dict[str, Blob], prefix: str, recursive: bool) -> dict[str, dict]:
    """Path -> entry of the tree listing: the files below the prefix, and their folders."""
    entries: dict[str, dict] = {}
    for path, blob in sorted(blobs.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            folder = prefix + "/".join(parts[:depth])
            entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
        if recursive or len(parts) == 1:
            entries[path] = {"type": "file", "path": path, "oid": blob.git_oid, "size": blob.size}
            if blob.lfs:
                entries[path]["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    return entries


def _json(value: dict | list) -> Response:
    return Response(json.dumps(value).encode(), {"Content-Type": "application/json"})


class _Handler(BaseHTTPRequestHandler):
    """HTTP on one side, `hub.answer` on the other."""

    protocol_version = "HTTP/1.1"
    hub: HubServer

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        response = self.hub.answer(self.command, self.path, headers, self._body(headers))
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *arguments) -> None:
        """Quiet: tests read `HubServer.requests` instead."""

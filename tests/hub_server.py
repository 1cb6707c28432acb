# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""A local server that speaks the protocol of the Hugging Face hub.

Downloads are like the hub's: small files come from the repository, large ones by a redirect to
another address that allows ranges. Uploads are commits, with large files over Git LFS.
"""

import hashlib
import json
import re
import threading
import time
from base64 import b64decode
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

LARGE = 1000  # bytes


class Hub:
    """The repositories of a server.

    Attributes:
        repos (dict): For every repository the commit of every branch and tag, and the files of
            every commit.
        readable_by (dict): For private and gated repositories the token that may read them.
        gated (set): Repositories whose terms must be accepted.
        requests (list): Method and path of every request, and its range.
        cuts (list): For the next downloads of large files, after how many bytes they break off.
        delay (float): Seconds before a large file is sent.
        error (int | None): Status of every response, as of a server that does not work.
        silence (float): Seconds before every response.
    """

    def __init__(self):
        self.repos = {}
        self.readable_by = {}
        self.gated = set()
        self.requests = []
        self.cuts = []
        self.delay = 0
        self.error = None
        self.silence = 0
        self.objects = {}
        self.write_token = 'hf_write'
        self.url = ''

    def commit(self, repo, files, branch='main'):
        """Add files to a branch; returns the commit."""
        stored = self.repos.setdefault(repo, dict(refs={}, commits={}))
        before = stored['commits'].get(stored['refs'].get(branch), {})
        files = {**before, **files}
        digest = hashlib.sha1(repr((repo, branch, sorted(files.items()))).encode()).hexdigest()
        stored['commits'][digest] = files
        stored['refs'][branch] = digest
        return digest

    def downloads(self, name):
        """The requests for the contents of a file, by their ranges."""
        return [r for method, path, r in self.requests if method == 'GET' and path.endswith(name)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    @property
    def hub(self):
        return self.server.hub

    def log_message(self, *args):
        pass

    def reply(self, status, content=b'', **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers['Content_Type'] = 'application/json'
        headers.setdefault('Content_Length', len(content))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)

    def fail(self, status, code, message):
        self.reply(status, dict(error=message), X_Error_Code=code, X_Error_Message=message)

    def body(self):
        return self.rfile.read(int(self.headers.get('Content-Length', 0)))

    def token(self):
        return self.headers.get('Authorization', '').removeprefix('Bearer ')

    def commit_of(self, repo, revision):
        """The commit of a revision; None after an error reply."""
        hub = self.hub
        needed = hub.readable_by.get(repo)
        if repo not in hub.repos or (needed and needed != self.token() and repo not in hub.gated):
            self.fail(401, 'RepoNotFound', 'Repository not found')
        elif repo in hub.gated and needed != self.token():
            self.fail(401, 'GatedRepo', 'Access to model is restricted')
        else:
            stored = hub.repos[repo]
            commit = stored['refs'].get(revision, revision)
            if commit in stored['commits']:
                return commit
            self.fail(404, 'RevisionNotFound', 'Invalid rev id')
        return None

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get('Range')))
        time.sleep(self.hub.silence)
        if self.hub.error:
            return self.fail(self.hub.error, 'Broken', 'out of order')
        if match := re.fullmatch(r'/([^/]+/[^/]+)/resolve/((?:refs/pr/)?[^/]+)/(.+)', path):
            return self.resolve(*match.groups())
        if path.startswith('/cdn/'):
            return self.content(self.hub.objects[path.split('/')[2]])
        if match := re.fullmatch(r'/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?', path):
            repo, revision = match.groups()
            commit = self.commit_of(repo, revision or 'main')
            if commit is not None:
                files = self.hub.repos[repo]['commits'][commit]
                names = [dict(rfilename=name) for name in files]
                self.reply(200, dict(id=repo, modelId=repo, sha=commit, siblings=names))
            return None
        if path == '/api/whoami-v2':
            if self.token() != self.hub.write_token:
                return self.fail(401, 'Unauthorized', 'Invalid user token.')
            return self.reply(200, dict(name='me', type='user', orgs=[]))
        return self.fail(404, 'Unknown', f'no such page: {path}')

    def resolve(self, repo, revision, name):
        commit = self.commit_of(repo, revision)
        if commit is None:
            return None
        content = self.hub.repos[repo]['commits'][commit].get(name)
        if content is None:
            return self.reply(404, b'', X_Error_Code='EntryNotFound', X_Repo_Commit=commit)
        digest = hashlib.sha256(content).hexdigest()
        if len(content) < LARGE:
            return self.reply(200, content, ETag=f'"{digest[:40]}"', X_Repo_Commit=commit)
        self.hub.objects[digest] = content
        return self.reply(
            302,
            b'',
            # Another host, as the hub's storage is.
            Location=f'http://localhost:{self.server.server_port}/cdn/{digest}/{name}',
            X_Linked_ETag=f'"{digest}"',
            X_Linked_Size=len(content),
            X_Repo_Commit=commit,
        )

    def content(self, content):
        time.sleep(self.hub.delay)
        begin, status, headers = 0, 200, dict(Accept_Ranges='bytes')
        if match := re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', '')):
            begin, status = int(match[1]), 206
            end = int(match[2]) + 1 if match[2] else len(content)
            headers['Content_Range'] = f'bytes {begin}-{end - 1}/{len(content)}'
            content = content[:end]
        content = content[begin:]
        if self.command == 'GET' and self.hub.cuts:
            length = self.hub.cuts.pop(0)
            if length is not None:
                self.close_connection = True
                headers['Content_Length'] = len(content)
                content = content[:length]
        self.reply(status, content, **headers)

    def do_POST(self):
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append((self.command, path, None))
        body = self.body()
        if path == '/api/validate-yaml':
            return self.reply(200, dict(errors=[], warnings=[]))
        if self.token() != self.hub.write_token:
            return self.fail(403, 'Forbidden', 'You need write access')
        if path == '/api/repos/create':
            entry = json.loads(body)
            repo = f'{entry.get("organization") or "me"}/{entry["name"]}'
            if repo in self.hub.repos:
                return self.reply(409, dict(error='exists', url=f'{self.hub.url}/{repo}'))
            self.hub.commit(repo, {})
            if entry.get('private') or entry.get('visibility') == 'private':
                self.hub.readable_by[repo] = self.hub.write_token
            return self.reply(200, dict(url=f'{self.hub.url}/{repo}', id=repo))
        if match := re.fullmatch(r'/api/models/([^/]+/[^/]+)/preupload/(.+)', path):
            modes = [
                dict(
                    path=file['path'],
                    uploadMode='lfs' if file['size'] >= LARGE else 'regular',
                    shouldIgnore=False,
                )
                for file in json.loads(body)['files']
            ]
            return self.reply(200, dict(files=modes))
        if re.fullmatch(r'/([^/]+/[^/]+?)(?:\.git)?/info/lfs/objects/batch', path):
            objects = [
                dict(
                    oid=one['oid'],
                    size=one['size'],
                    actions=dict(upload=dict(href=f'{self.hub.url}/upload/{one["oid"]}')),
                )
                for one in json.loads(body)['objects']
            ]
            return self.reply(200, dict(transfer='basic', objects=objects))
        if match := re.fullmatch(r'/api/models/([^/]+/[^/]+)/commit/(.+)', path):
            return self.commit(match[1], match[2], body)
        return self.fail(404, 'Unknown', f'no such page: {path}')

    def do_PUT(self):
        content = self.body()
        digest = hashlib.sha256(content).hexdigest()
        assert self.path == f'/upload/{digest}'
        self.hub.objects[digest] = content
        self.reply(200)

    def commit(self, repo, branch, body):
        files, deleted = {}, []
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry['value']
            if entry['key'] == 'file':
                files[value['path']] = b64decode(value['content'])
            elif entry['key'] == 'lfsFile':
                files[value['path']] = self.hub.objects[value['oid']]
            elif entry['key'] == 'deletedFile':
                deleted.append(value['path'])
        digest = self.hub.commit(repo, files, branch)
        for name in deleted:
            del self.hub.repos[repo]['commits'][digest][name]
        self.reply(200, dict(commitUrl=f'{self.hub.url}/{repo}/commit/{digest}', commitOid=digest))


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that ends first is no error."""


@contextmanager
def serve():
    """Yield the hub of a running server."""
    server = Server(('127.0.0.1', 0), Handler)
    server.hub = Hub()
    server.hub.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()

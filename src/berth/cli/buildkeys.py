"""`--ssh ID=KEY`: an ssh-agent of the build's own that holds the keys of files."""

import os
import shutil
import subprocess
import tempfile

from berth.cli.flags import Misuse


class KeyAgent:
    """OpenSSH's agent in the foreground, below a directory that only this user can enter."""

    def __init__(self) -> None:
        self._directory = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, paths: "list[str]") -> str:
        """The path of its socket. Misuse where a key is none, or has a passphrase that nobody types."""
        if not (shutil.which("ssh-agent") and shutil.which("ssh-add")):
            raise Misuse("--ssh with a key needs ssh-agent and ssh-add, which are not installed; name the socket of an agent instead")
        self._directory = tempfile.mkdtemp(prefix="berth-ssh-")
        socket = f"{self._directory}/agent"
        try:
            self._process = subprocess.Popen(
                ["ssh-agent", "-D", "-a", socket], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
            assert self._process.stdout
            self._process.stdout.readline()  # it says where it listens, and does
            for path in paths:
                done = subprocess.run(["ssh-add", "-q", path], env={**os.environ, "SSH_AUTH_SOCK": socket}, capture_output=True, check=False)
                if done.returncode:
                    raise Misuse(f"--ssh: {path} cannot be used as a key: {done.stderr.decode(errors='replace').strip()}")
        except BaseException:
            self.stop()
            raise
        return socket

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.communicate()
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)

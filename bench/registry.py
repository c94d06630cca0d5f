"""berth's registry against nginx: how fast one file leaves each, the same file, the same client, by turns.

    .venv/bin/python bench/registry.py [--size-mb 1000] [--rounds 15] [--at-once 1 4] [--tls]

nginx serves a plain copy of the blob with sendfile; curl writes to /dev/null. Rates are of the whole transfer, as curl
measures it. The first round does not count.
"""

import argparse
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"nobody listens on port {port}")


def start_nginx(top: str, port: int, tls: bool) -> subprocess.Popen:
    secure = f" ssl; ssl_certificate {top}/cert.pem; ssl_certificate_key {top}/key.pem" if tls else ""
    os.makedirs(f"{top}/nginx")
    with open(f"{top}/nginx.conf", "w") as file:
        file.write(
            f"daemon off; worker_processes 1; pid {top}/nginx.pid; error_log {top}/nginx.log; user root;\n"
            "events { worker_connections 64; }\n"
            f"http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {top}/nginx; proxy_temp_path {top}/nginx;\n"
            f"fastcgi_temp_path {top}/nginx; uwsgi_temp_path {top}/nginx; scgi_temp_path {top}/nginx;\n"
            f"server {{ listen 127.0.0.1:{port}{secure}; root {top}/files; }} }}\n"
        )
    return subprocess.Popen(["nginx", "-c", f"{top}/nginx.conf", "-e", f"{top}/nginx.log"])


def start_registry(top: str, port: int, tls: bool) -> subprocess.Popen:
    secure = ("--tlscert", f"{top}/cert.pem", "--tlskey", f"{top}/key.pem") if tls else ()
    words = ("-m", "berth.cli", "registry", "serve", "--root", f"{top}/registry", "--addr", f"127.0.0.1:{port}", "--access-log", "none", *secure)
    return subprocess.Popen([sys.executable, *words], env={**os.environ, "PYTHONPATH": f"{ROOT}/src"}, stderr=subprocess.DEVNULL)


def rate(url: str, at_once: int) -> float:
    """Bytes a second of all transfers together."""
    command = ["curl", "-sSk", "-o", "/dev/null", "-w", "%{size_download} %{http_code}", url]
    began = time.monotonic()
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(at_once)]
    size = 0
    for one in running:
        out, _ = one.communicate()
        count, status = out.split()
        assert status == "200", out
        size += int(count)
    return size / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    top = tempfile.mkdtemp(prefix="berth-bench-", dir="/var/tmp")
    processes = []
    try:
        os.makedirs(f"{top}/files")
        block, hashed = os.urandom(1 << 20), hashlib.sha256()
        with open(f"{top}/files/blob", "wb") as file:
            for _ in range(options.size_mb):
                file.write(block)
                hashed.update(block)
        if options.tls:
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{top}/key.pem",
                            "-out", f"{top}/cert.pem", "-days", "2", "-subj", "/CN=localhost"], check=True, capture_output=True)  # fmt: skip
        scheme, digest = "https" if options.tls else "http", f"sha256:{hashed.hexdigest()}"
        nginx_port, registry_port = free_port(), free_port()
        processes = [start_nginx(top, nginx_port, options.tls), start_registry(top, registry_port, options.tls)]
        await_port(nginx_port)
        await_port(registry_port)
        base = f"{scheme}://127.0.0.1:{registry_port}/v2/bench/blobs"
        subprocess.run(["curl", "-sSkf", "-T", f"{top}/files/blob", "-X", "POST", f"{base}/uploads?digest={digest}"], check=True, stdout=subprocess.DEVNULL)
        targets = {"nginx": f"{scheme}://127.0.0.1:{nginx_port}/blob", "berth": f"{base}/{digest}"}
        for at_once in options.at_once:
            rates: dict[str, list[float]] = {name: [] for name in targets}
            for turn in range(options.rounds + 1):
                for name in sorted(targets, reverse=bool(turn % 2)):
                    found = rate(targets[name], at_once)
                    rates[name] += [found] if turn else []
            medians = {name: statistics.median(found) for name, found in rates.items()}
            ratio = statistics.median(berth / nginx for berth, nginx in zip(rates["berth"], rates["nginx"], strict=True))
            spread = ", ".join(f"{name} {medians[name] / 1e6:.0f} MB/s ({min(f) / 1e6:.0f} to {max(f) / 1e6:.0f})" for name, f in rates.items())
            print(f"{scheme}, {options.size_mb} MiB, {at_once} at once: {spread}; ratio {ratio:.2f} (median of {options.rounds} pairs)", flush=True)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
        shutil.rmtree(top)


if __name__ == "__main__":
    main()

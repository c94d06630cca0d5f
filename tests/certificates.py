"""Certificates for the tests' servers and clients, by openssl."""

import subprocess


def make_certificates(directory: str, names: "tuple[str, ...]" = ("localhost", "registry.test"), addresses: "tuple[str, ...]" = ("127.0.0.1",)) -> None:
    """ca.crt, ca.key, server.crt and server.key, client.cert and client.key, all of one authority, by openssl."""
    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=directory)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-days", "30", "-subj", "/CN=authority of the tests",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    alternatives = ",".join([*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in addresses)])
    for stem, certificate, extension in (
        ("server", "server.crt", f"subjectAltName={alternatives}"), ("client", "client.cert", "extendedKeyUsage=clientAuth"),
    ):  # fmt: skip
        openssl("req", *curve, "-keyout", f"{stem}.key", "-out", f"{stem}.csr", "-subj", f"/CN={stem}")
        with open(f"{directory}/{stem}.ext", "w") as file:
            file.write(extension + "\n")
        openssl("x509", "-req", "-in", f"{stem}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", certificate,
                "-days", "30", "-extfile", f"{stem}.ext")  # fmt: skip

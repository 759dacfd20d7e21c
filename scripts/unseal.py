"""The keys and seals of an encrypted icecore repository, for extract.py. Written from docs/format.md alone.

ICECORE_IDENTITY names a file with an age identity or an ssh private key, ICECORE_PASSPHRASE_FILE one whose first line is
a passphrase. Needs: pip install blake3 cryptography pyrage
"""

import os

import pyrage
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HEAD, MAGIC, ZEROS = b"icecore repository key\n", b"ICESEAL0", b"0" * 64


def identity(path):
    with open(path, "rb") as file:
        data = file.read()
    if data.startswith(b"-----BEGIN "):
        return [pyrage.ssh.Identity.from_buffer(data)]
    lines = data.decode().splitlines()
    return [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith("AGE-SECRET-KEY-")]


def unwrap(data):
    """The repository key in a wrapped key, by whatever the environment names; None if that doesn't open it."""
    try:
        if path := os.environ.get("ICECORE_IDENTITY"):
            return pyrage.decrypt(data, identity(path))
    except pyrage.DecryptError:
        pass
    try:
        if path := os.environ.get("ICECORE_PASSPHRASE_FILE"):
            with open(path, encoding="utf-8") as file:
                return pyrage.passphrase.decrypt(data, file.readline().rstrip("\n"))
    except pyrage.DecryptError:
        pass
    return None


class Seals:
    def __init__(self, keys, encryption, body):
        """`keys` are the bytes of the files in keys/, `body` what the config's authenticator is about."""
        if not (isinstance(encryption, dict) and encryption.get("cipher") == "aes-256-gcm"):
            raise ValueError("config: unknown encryption")
        opened = [text for data in keys if (text := unwrap(data)) is not None]
        keys = [bytes.fromhex(text[len(HEAD) :].decode()) for text in opened if text.startswith(HEAD)]
        fingerprint = "fingerprint of the repository key"
        own = [key for key in keys if derive(key, fingerprint)[:16].hex() == encryption.get("key")]
        if not own:
            raise ValueError("nothing that ICECORE_IDENTITY or ICECORE_PASSPHRASE_FILE names opens its keys")
        self.chunks, self.files = (derive(own[0], f"sealing of {what}") for what in ("chunks", "files"))
        self.ids = derive(own[0], "ids of chunks")
        code = encryption.get("code", "").encode()
        blank = body.replace(b'"code": "' + code + b'"', b'"code": "' + ZEROS + b'"', 1)
        if blake3(blank, key=derive(own[0], "authenticator of the config")).hexdigest().encode() != code:
            raise ValueError("config: changed by somebody without the key")

    def hash(self, data):
        """A chunk's id."""
        return blake3(data, key=self.ids).digest()

    def open(self, data, about, is_file, what):
        """What was sealed about something: a chunk's encoded bytes, or a small file."""
        if not is_file:
            return unseal(self.chunks, data, about, what)
        if not data.startswith(MAGIC):
            raise ValueError(f"{what}: damaged, it is not sealed")
        return unseal(self.files, data[len(MAGIC) :], about, what)


def derive(key, context):
    return blake3(key, derive_key_context=f"icecore 2026 {context}").digest()


def unseal(key, data, about, what):
    own = blake3(data[:16] + about, key=key).digest()
    try:
        return AESGCM(own).decrypt(bytes(12), data[16:], about)
    except (InvalidTag, ValueError):
        raise ValueError(f"{what}: damaged, or not what it is taken for") from None

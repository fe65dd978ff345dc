"""What is moved where its density matters: real files, zero pages and random bytes in a fixed proportion."""

import hashlib
import os
import random

MB = 1_000_000


def file_tree_bytes(size):
    """Bytes of real files below /usr, in path order: programs, libraries, texts."""
    parts, have = [], 0
    for folder in ("/usr/lib", "/usr/bin", "/usr/share"):
        for path, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                full = os.path.join(path, name)
                if os.path.islink(full) or not os.path.isfile(full):
                    continue
                try:
                    with open(full, "rb") as file:
                        data = file.read(min(4 * MB, size - have))
                except OSError:
                    continue
                parts.append(data)
                have += len(data)
                if have >= size:
                    return b"".join(parts)
    data = b"".join(parts) or b"\0"
    return (data * (size // len(data) + 1))[:size]


def make_payload(path, size, seed):
    """Half real files, a quarter zero pages, a quarter random bytes, in turns of 256 KiB."""
    turn = 256 * 1024
    tree = file_tree_bytes(size // 2 + turn)
    generator = random.Random(seed)
    digest = hashlib.sha256()
    written = tree_at = step = 0
    with open(path, "wb") as out:
        while written < size:
            length = min(turn, size - written)
            if step % 4 in (0, 2):
                piece = tree[tree_at : tree_at + length]
                tree_at += length
            elif step % 4 == 1:
                piece = bytes(length)
            else:
                piece = generator.randbytes(length)
            out.write(piece)
            digest.update(piece)
            written += len(piece)
            step += 1
    return digest.hexdigest()

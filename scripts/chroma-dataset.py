"""Makes, and lets grow, a real Chroma store for scripts/bench, and closes it cleanly. Needs chromadb, which brings numpy.

chroma-dataset.py make DIRECTORY VECTORS SYNC_THRESHOLD    a collection of 384 dimensions with documents and metadata
chroma-dataset.py grow DIRECTORY VECTORS                   that many vectors more
"""

import sys

import chromadb
import numpy

DIMENSION, BATCH = 384, 1000
WORDS = "glacier layer core drill dust oxygen depth winter summer ash record bubble methane thaw slab year".split()


def document(random: numpy.random.Generator) -> str:
    chosen = random.integers(len(WORDS), size=random.integers(10, 30))
    return " ".join(f"{WORDS[word]}{random.integers(500)}" for word in chosen)


def add(collection: chromadb.Collection, vectors: int) -> None:
    """The records after those that are there; the same count gives the same records."""
    first = collection.count()
    for start in range(first, first + vectors, BATCH):
        numbers = range(start, min(start + BATCH, first + vectors))
        random = numpy.random.default_rng(start)
        points = random.standard_normal((len(numbers), DIMENSION), dtype=numpy.float32)
        collection.add(
            ids=[f"document-{number:08}" for number in numbers],
            embeddings=points / numpy.linalg.norm(points, axis=1, keepdims=True),
            documents=[document(random) for _ in numbers],
            metadatas=[{"source": f"page-{number % 97}", "number": number} for number in numbers],
        )


def main(arguments: list[str]) -> None:
    match arguments:
        case ["make", place, vectors, sync_threshold]:
            hnsw = {"space": "cosine", "sync_threshold": int(sync_threshold)}
            client = chromadb.PersistentClient(place)
            collection = client.create_collection("bench", configuration={"hnsw": hnsw}, embedding_function=None)
        case ["grow", place, vectors]:
            client = chromadb.PersistentClient(place)
            collection = client.get_collection("bench", embedding_function=None)
        case _:
            sys.exit(__doc__)
    add(collection, int(vectors))
    client.close()


if __name__ == "__main__":
    main(sys.argv[1:])

"""Time datatrove's MinHash deduplication; bench/filters.py runs this in an environment that has datatrove.

    python bench/datatrove_minhash.py texts.json 20 13

The file holds a list of texts; the numbers are bands and rows per band. Printed: the seconds and the rows to
remove, as JSON. The tokenizer only splits at spaces, which is datatrove's fastest.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from glob import glob
from importlib.metadata import version
from pathlib import Path


def deduplicate(texts: Sequence[str], bands: int, rows: int) -> tuple[float, int]:
    """Return the seconds of signatures, buckets and clusters, and the number of rows to remove."""
    os.environ.setdefault("DATATROVE_COLORIZE_LOGS", "0")
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.word_tokenizers import WordTokenizer
    from loguru import logger
    from xxhash import xxh64_intdigest

    class Spaces(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    logger.remove()
    config = MinhashConfig(n_grams=2, num_buckets=bands, hashes_per_bucket=rows)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        documents = (Document(text=text, id=str(number)) for number, text in enumerate(texts))
        signature = MinhashDedupSignature(f"{folder}/signatures", config, language=Spaces("en"))
        signature._hash_func = lambda text: xxh64_intdigest(text.encode())  # it passes a str to xxhash 4
        signature.run(documents)
        for bucket in range(bands):
            step = MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)
            step.run(None, rank=bucket, world_size=bands)
        MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config).run(None)
        seconds = time.perf_counter() - start
        removed = sum(Path(name).stat().st_size for name in glob(f"{folder}/remove/*.remove")) // 4
    return seconds, removed


if __name__ == "__main__":
    content = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    spent, dropped = deduplicate(content, *map(int, sys.argv[2:]))
    print(json.dumps({"seconds": spent, "removed": dropped, "version": version("datatrove")}))

"""Made-up evidence about precision: more bits lose less, more important rows lose more."""

import numpy as np

from dimension_search.precision_evidence import PrecisionEvidence
from dimension_search.row_importance import LEVELS

CODECS = ("fp32", "fp16", "int8_minmax", "int4_greedy", "int4_greedy_coded", "int4_minmax_block")
LOST = (0.0, 1e-9, 1e-6, 1e-3, 1.5e-3, 1e-2)


def made_evidence(seed: int = 0, slots: int = 2, bands: int = 2, most_rows: int = 5000) -> PrecisionEvidence:
    generator = np.random.default_rng(seed)
    blocks = slots * bands
    classes = blocks * LEVELS
    rows = generator.integers(0, most_rows, classes) * generator.integers(0, 2, classes)
    lookups = rows * 2.0 ** np.tile(np.arange(LEVELS), blocks) * generator.random(classes)
    rise = lookups[:, None] * np.array(LOST) * generator.random((classes, len(LOST))) * 1e-6
    return PrecisionEvidence(
        bands=bands,
        codecs=CODECS,
        widths=generator.integers(0, 33, blocks),
        rows=rows,
        lookups=lookups,
        rise=rise,
        error=np.tile(np.array(LOST), (classes, 1)),
        sensitivity=generator.random(blocks),
        log_loss=0.5,
        samples=8192,
    )

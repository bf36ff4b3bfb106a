"""Writes rows.parquet as pandas 2.3.3 with pyarrow 19.0.1 does: 480 rows over two
days, every sixth minute, with missing values, a category, and a float32 column."""

import numpy as np
import pandas as pd

r = np.random.default_rng(1)
n = 480
rows = pd.DataFrame({
    "at": pd.date_range("2026-01-04", periods=n, freq="6min", tz="UTC"),
    "amount": r.normal(100, 20, n).astype("float32"),
    "visits": r.poisson(3, n),
    "country": pd.Categorical(r.choice(["at", "de", "fr"], n, p=[0.5, 0.3, 0.2])),
    "age": pd.array(r.integers(18, 90, n), dtype="Int64"),
    "known": r.random(n) < 0.7,
    "score": r.random(n),
})
rows.loc[::10, "age"] = pd.NA
rows.loc[5::100, "country"] = None
rows.to_parquet("rows.parquet", index=False)
print(rows.country.value_counts(dropna=False).to_dict(), rows.known.sum(),
      (rows.visits == 3).sum())

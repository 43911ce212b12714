"""Item vectors: what they are in memory, the store that keeps them, and the readers of other files.

- `embeddings`, `tokens`: vectors keyed by item token, and their alignment with a dataset.
- `store`, `shard`, `header`, `columnar_file`: a folder of shards, one shard, its header, the file below it.
- `cache`: the folder of all stores.
- `readers`: `read_embeddings` and its table of readers by suffix; `array_files`, `table_files`: these readers;
  `column_names`, `data_frames`: what the readers of tables share.
- `export`: the way back into one file.
"""

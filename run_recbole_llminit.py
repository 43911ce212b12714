"""Train and test a RecBole model from LLM embeddings, with the arguments of RecBole's ``run_recbole.py``.

``python run_recbole_llminit.py --model=LightGCN --dataset=ml-100k --init_strategy=var``
"""

import sys

from recbole_llminit.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))

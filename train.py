"""Train a sequence-to-sequence model from scratch, on one or many devices.

accelerate launch train.py configs/scan-rnn.yaml
accelerate launch train.py configs/multi30k-en-de-rnn.yaml --learning_rate 0.001 --output_dir runs/mine
accelerate launch train.py runs/mine/settings.yaml --resume
"""

import sys

from seqloom.commands.train import main

if __name__ == "__main__":
    sys.exit(main())

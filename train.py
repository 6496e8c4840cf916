"""Train a sequence-to-sequence model from scratch, on one or many devices: ``seqloom train`` for several processes.

accelerate launch --config_file configs/accelerate/8-gpus.yaml train.py multi30k-en-de-transformer-tiny
accelerate launch --config_file configs/accelerate/cpu-2-processes.yaml train.py scan-rnn
python train.py --help
"""

import sys

IS_SEQLOOM = True  # the package then loads what the command needs, and no more

if __name__ == "__main__":
    from seqloom.commands.train import main

    sys.exit(main())

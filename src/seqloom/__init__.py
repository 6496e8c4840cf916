"""seqloom: sequence-to-sequence models, recurrent and Transformer, as ordinary citizens of the Hugging Face world.

Importing the package registers both families with transformers' Auto classes.
"""

from seqloom.decoding.translate import Hypothesis, stream, translate
from seqloom.modeling import *  # noqa: F403
from seqloom.modeling import __all__ as _models
from seqloom.version import __version__

__all__ = [*_models, "Hypothesis", "__version__", "stream", "translate"]

"""A family that is none of seqloom's: gated convolutions, defined here alone, and made known as any other.

What its files import from beside them is seqloom's: whoever writes a family outside of ``modeling/`` lays copies of
those files beside it, and its models then travel to those who have no seqloom. `helpers.guest.lay` does that here.
"""

from seqloom import register_family

from .configuration_guest_seq2seq import GuestSeq2SeqConfig
from .modeling_guest_seq2seq import GuestSeq2SeqForConditionalGeneration, GuestSeq2SeqModel

register_family(GuestSeq2SeqConfig, GuestSeq2SeqModel, GuestSeq2SeqForConditionalGeneration)

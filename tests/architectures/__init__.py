"""24 small models of the architectures that transformers knows, by family; the measurements use this list."""

from tests.architectures.architecture import Architecture, outputs
from tests.architectures.audio import AUDIO
from tests.architectures.decoders import DECODERS
from tests.architectures.encoder_decoders import ENCODER_DECODERS
from tests.architectures.encoders import ENCODERS
from tests.architectures.mixtures import MIXTURES
from tests.architectures.state_space import STATE_SPACE
from tests.architectures.vision import VISION

ARCHITECTURES: tuple[Architecture, ...] = (
    *ENCODERS,
    *DECODERS,
    *ENCODER_DECODERS,
    *VISION,
    *AUDIO,
    *STATE_SPACE,
    *MIXTURES,
)

__all__ = ["ARCHITECTURES", "Architecture", "outputs"]

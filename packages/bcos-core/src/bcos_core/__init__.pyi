from bcos_core import functional as functional
from bcos_core import losses as losses
from bcos_core import norms as norms
from bcos_core import receipt as receipt
from bcos_core.attention import BcosCrossAttention as BcosCrossAttention
from bcos_core.attention import BcosSelfAttention as BcosSelfAttention
from bcos_core.attention import CrossAttention as CrossAttention
from bcos_core.attention import SelfAttention as SelfAttention
from bcos_core.conv import BcosConv1d as BcosConv1d
from bcos_core.conv import BcosConv2d as BcosConv2d
from bcos_core.conv import BcosConv3d as BcosConv3d
from bcos_core.conv_transpose import BcosConvTranspose1d as BcosConvTranspose1d
from bcos_core.conv_transpose import BcosConvTranspose2d as BcosConvTranspose2d
from bcos_core.conv_transpose import BcosConvTranspose3d as BcosConvTranspose3d
from bcos_core.encoding import AddInverse as AddInverse
from bcos_core.errors import BcosError as BcosError
from bcos_core.explainer import explain as explain
from bcos_core.explanation import Explanation as Explanation
from bcos_core.inference import folded as folded
from bcos_core.linear import BcosLinear as BcosLinear
from bcos_core.logits import LogitLayer as LogitLayer
from bcos_core.mode import explanation_mode as explanation_mode
from bcos_core.mode_state import freeze as freeze
from bcos_core.mode_state import is_explaining as is_explaining
from bcos_core.rules import AS_IT_IS as AS_IT_IS
from bcos_core.rules import register_rules as register_rules

__version__: str

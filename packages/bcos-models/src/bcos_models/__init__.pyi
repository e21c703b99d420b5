from bcos_models.conversion import Conversion as Conversion
from bcos_models.conversion import ConversionOptions as ConversionOptions
from bcos_models.conversion import ConversionReport as ConversionReport
from bcos_models.convert.annealing import recalibrate_norms as recalibrate_norms
from bcos_models.convert.annealing import scale_biases as scale_biases
from bcos_models.convert.annealing import set_exponent as set_exponent
from bcos_models.convert.bcosify import bcosify as bcosify
from bcos_models.hookspecs import hookimpl as hookimpl
from bcos_models.hub import from_pretrained as from_pretrained
from bcos_models.hub import push_to_hub as push_to_hub
from bcos_models.hub import save_pretrained as save_pretrained
from bcos_models.model_config import ModelConfig as ModelConfig
from bcos_models.registry import create_model as create_model
from bcos_models.registry import get_spec as get_spec
from bcos_models.registry import is_model as is_model
from bcos_models.registry import list_models as list_models
from bcos_models.registry import model_specs as model_specs
from bcos_models.spec import Checkpoint as Checkpoint
from bcos_models.spec import InputSpec as InputSpec
from bcos_models.spec import ModelSpec as ModelSpec
from bcos_models.trained_model import TrainedModel as TrainedModel
from bcos_models.trained_model import load_trained as load_trained
from bcos_models.transforms import InferenceTransform as InferenceTransform
from bcos_models.weights import load_weights as load_weights
from bcos_models.weights import save_weights as save_weights

__version__: str

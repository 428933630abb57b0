from .arguments import DataArguments as DataArguments
from .arguments import PreparationArguments as PreparationArguments
from .arguments import TaskArguments as TaskArguments
from .data.examples import encode_examples as encode_examples
from .data.packing import PackingCollator as PackingCollator
from .data.packing import pack as pack
from .data.prompt_settings import PromptSettings as PromptSettings
from .data.prompting import Prompter as Prompter
from .data.rows import load_rows as load_rows
from .data.tokenization import tokenize as tokenize
from .distributed.zero import DeepSpeedInForce as DeepSpeedInForce
from .evaluation.callback import TaskEvaluation as TaskEvaluation
from .evaluation.generation import complete as complete
from .evaluation.sampling import Sampling as Sampling
from .evaluation.scoring import evaluate_task as evaluate_task
from .metrics.base import TaskMetric as TaskMetric
from .metrics.base import paired_test as paired_test
from .models.isolation import check_isolation as check_isolation
from .preparation.pipeline import prepare as prepare
from .publishing.hub import push_folder as push_folder
from .publishing.run_report import write_run_report as write_run_report
from .tasks import Task as Task
from .tasks import load_task as load_task
from .training.checkpoints import CompleteCheckpoints as CompleteCheckpoints
from .training.run import run_training as run_training

__version__: str

"""Names of flags in other tools lead to flags of ours."""

import dataclasses
import re

from transformers import TrainingArguments

from hf_llm import arguments
from hf_llm.other_tools import NAMES_IN_OTHER_TOOLS, REMEDIES

GROUPS = [arguments.ModelArguments, arguments.AdapterArguments, arguments.TaskArguments, arguments.TextArguments]
GROUPS += [arguments.EvalArguments, arguments.GenerateArguments, arguments.TokenizerArguments, TrainingArguments]


def test_names_of_other_tools_lead_to_flags_that_exist():
    """A misspelled one would send the reader into a second error."""
    ours = {option.name for group in GROUPS for option in dataclasses.fields(group)}
    ours |= {"num_processes", "revision", "local-dir"}  # of accelerate and hf
    named = {flag for remedy in REMEDIES.values() for flag in re.findall(r"--([\w-]+)", remedy)}
    assert {*NAMES_IN_OTHER_TOOLS.values()} | named <= ours

"""Which operators of TensorFlow a SavedModel may use: what computes, and of what keeps state only a model's.

Each is let in by its name. Whether TensorFlow declares state says too little: among those without any are some that run
a program given as a string. Whatever a later release brings is refused until somebody has looked at it.
"""

from __future__ import annotations

import re

from .tensorflow_computing import COMPUTES

# Readers of files by a name that the graph gives; policy may allow these (`tensorflow-files`), none writes.
READS_FILES = frozenset(
    {
        "FixedUnigramCandidateSampler",
        "GenerateVocabRemapping",
        "InitializeTableFromTextFile",
        "InitializeTableFromTextFileV2",
        "LoadAndRemapMatrix",
        "MatchingFiles",
        "ReadFile",
    }
)
_KEEPS_STATE = re.compile(
    "|".join(
        (
            # variables, and what trains them: exported with many a model, though nobody serves it
            "VarHandleOp|VarIsInitializedOp|ReadVariableOp|VariableShape|Variable|VariableV2|TemporaryVariable",
            "Assign(Add|Sub)?VariableOp|DisableCopyOnRead|DestroyResourceOp|IsResourceHandleRefCounting",
            "Resource(Gather|GatherNd|Scatter[A-Z][A-Za-z]*|StridedSliceAssign|CountUpTo)",
            "Resource(Sparse)?Apply[A-Z][A-Za-z0-9]*",
            # calls and branches
            "StatefulPartitionedCall|If|While|Case|Assert|CheckNumerics(V2)?|Print|PrintV2|Timestamp|GuaranteeConst",
            "DeviceIndex|Empty|MutexV2|MutexLock|ConsumeMutexLock",
            # random numbers
            "Random(Uniform|UniformInt|StandardNormal|Gamma|Poisson|PoissonV2|Shuffle|Crop)|TruncatedNormal|Multinomial",
            "ParameterizedTruncatedNormal|Stateful(Uniform|StandardNormal|TruncatedNormal|RandomBinomial)[A-Za-z0-9]*",
            "Rng(Skip|ReadAndSkip)|NonDeterministicInts|StatelessRandomGetAlg|SampleDistortedBoundingBox(V2)?",
            "(All|LogUniform|LearnedUnigram|ThreadUnsafeUnigram|Uniform)CandidateSampler",
            # tables in memory
            "(Anonymous)?(Mutable)?(Dense)?HashTable(OfTensors)?(V2)?|InitializeTableV2",
            "LookupTable(Export|Find|Import|Insert|Remove|Size)V2",
            # lists and stacks of tensors
            "TensorArray[A-Za-z0-9]*|Stack(Push|Pop|Close)?(V2)?",
            "CudnnRNN(V2|V3)?",
        )
    )
)


def why_refused(operator: str, *, files_allowed: bool) -> str:
    """Say in a few words what an operator does that no model may; "" where it may be used."""
    if operator in READS_FILES:
        return "" if files_allowed else "reads files of the server"
    if operator in COMPUTES or _KEEPS_STATE.fullmatch(operator):
        return ""
    if operator.startswith("_"):
        return "is of TensorFlow's own inside"
    if "Dataset" in operator or "Iterator" in operator:
        return "reads or makes a dataset, which may run a graph of its own"
    return "runs programs, touches files, devices or the network, or keeps state that is not a model's"

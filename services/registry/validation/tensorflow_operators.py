"""Which operators of TensorFlow a SavedModel may use: what computes, and of what keeps state only what is known.

An operator without state computes, unless it is named here. One with state may be anything, from a variable to a server
that listens: it must be named here to be let in, and whatever a later release brings is refused until it is.
"""

from __future__ import annotations

import re

# Readers of files by a name that the graph gives; policy may allow these (`tensorflow-files`), none writes.
READS_FILES = frozenset(
    {
        "CSVDataset",
        "CSVDatasetV2",
        "CacheDataset",
        "CacheDatasetV2",
        "FixedLengthRecordDataset",
        "FixedLengthRecordDatasetV2",
        "FixedLengthRecordReaderV2",
        "FixedUnigramCandidateSampler",
        "GenerateVocabRemapping",
        "InitializeTableFromTextFile",
        "InitializeTableFromTextFileV2",
        "LoadAndRemapMatrix",
        "MatchingFiles",
        "ReadFile",
        "TFRecordDataset",
        "TFRecordDatasetV2",
        "TextLineDataset",
        "TextLineReaderV2",
        "WholeFileReaderV2",
    }
)
# What the saver that TensorFlow itself writes into each SavedModel is made of. See `tensorflow_graph` on where.
SAVER = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints"})
# Without state as TensorFlow declares them, and not for computing: Python, files, addresses, libraries, the end.
_FORBIDDEN_STATELESS = frozenset(
    {
        "Abort",
        "Copy",
        "CopyHost",
        "DebugIdentity",
        "DebugNanCount",
        "DebugNumericSummary",
        "DecodeProtoV2",  # reads a descriptor from a file
        "EncodeProto",
        "ImmutableConst",  # maps a file
        "PyFuncStateless",
        "RegisterDataset",
        "RegisterDatasetV2",
        "SnapshotChunkDataset",
        "SnapshotDataset",
        "SnapshotDatasetReader",
        "SnapshotDatasetV2",
        "SnapshotNestedDatasetReader",
        "XlaCustomCall",
        "XlaCustomCallV2",
    }
)
_ALLOWED_STATEFUL = re.compile(
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


def why_refused(operator: str, *, stateful: bool, files_allowed: bool) -> str:
    """Say in a few words what an operator does that no model may; "" where it may be used."""
    if operator in READS_FILES:
        return "" if files_allowed else "reads files of the server"
    if operator.startswith("_"):
        return "is of TensorFlow's own inside"
    if operator in _FORBIDDEN_STATELESS or (stateful and not _ALLOWED_STATEFUL.fullmatch(operator)):
        return "runs Python, touches files, devices or the network, or keeps state that is not a model's"
    return ""

"""The operators of TensorFlow that compute, by name: what a SavedModel may use beside the state that is a model's.

Each was chosen, from the list of TensorFlow 2.21, by what its name, inputs and attributes say: it makes tensors of
tensors. None is known to open a file, an address or a device, to run a program or a graph that it is given as data (a
function of the graph's own library is read like the graph), or to make an iterator or a queue. Datasets are left out
altogether: they are for training. What a later release brings is refused until it is named here.
"""

from __future__ import annotations

COMPUTES = frozenset(
    " ".join(
        (
            # control flow, in one graph or by its functions
            """
            Const ControlTrigger EnsureShape Enter Exit FakeParam Identity IdentityN LoopCond MapDefun Merge
            NextIteration NoOp PartitionedCall Placeholder PlaceholderV2 PlaceholderWithDefault PreventGradient
            RefEnter RefExit RefIdentity RefMerge RefNextIteration RefSelect RefSwitch Select StatelessCase
            StatelessIf StatelessWhile StopGradient Switch
            """,
            # variables of old, and what trains them
            """
            ApplyAdaMax ApplyAdadelta ApplyAdagrad ApplyAdagradDA ApplyAdagradV2 ApplyAdam ApplyAddSign
            ApplyCenteredRMSProp ApplyFtrl ApplyFtrlV2 ApplyGradientDescent ApplyMomentum ApplyPowerSign
            ApplyProximalAdagrad ApplyProximalGradientDescent ApplyRMSProp Assign AssignAdd AssignSub CountUpTo
            DestroyTemporaryVariable InplaceAdd InplaceSub InplaceUpdate IsVariableInitialized ScatterAdd ScatterDiv
            ScatterMax ScatterMin ScatterMul ScatterNdAdd ScatterNdMax ScatterNdMin ScatterNdSub ScatterNdUpdate
            ScatterSub ScatterUpdate SparseApplyAdadelta SparseApplyAdagrad SparseApplyAdagradDA
            SparseApplyAdagradV2 SparseApplyCenteredRMSProp SparseApplyFtrl SparseApplyFtrlV2 SparseApplyMomentum
            SparseApplyProximalAdagrad SparseApplyProximalGradientDescent SparseApplyRMSProp StridedSliceAssign
            """,
            # tables, lists, maps and stacks in memory
            """
            EmptyTensorList EmptyTensorMap InitializeTable LookupTableExport LookupTableFind LookupTableImport
            LookupTableInsert LookupTableSize StackClose StackPop StackPush TensorArrayClose TensorArrayCloseV2
            TensorArrayConcat TensorArrayConcatV2 TensorArrayGather TensorArrayGatherV2 TensorArrayPack
            TensorArrayRead TensorArrayReadV2 TensorArrayScatter TensorArrayScatterV2 TensorArraySize
            TensorArraySizeV2 TensorArraySplit TensorArraySplitV2 TensorArrayUnpack TensorArrayWrite
            TensorArrayWriteV2 TensorListConcat TensorListConcatLists TensorListConcatV2 TensorListElementShape
            TensorListFromTensor TensorListGather TensorListGetItem TensorListLength TensorListPopBack
            TensorListPushBack TensorListPushBackBatch TensorListReserve TensorListResize TensorListScatter
            TensorListScatterIntoExistingList TensorListScatterV2 TensorListSetItem TensorListSplit TensorListStack
            TensorMapErase TensorMapHasKey TensorMapInsert TensorMapLookup TensorMapSize TensorMapStackKeys
            """,
            # text, and what is parsed from it
            """
            AsString DecodeBase64 DecodeCSV DecodeCompressed DecodeJSONExample DecodePaddedRaw DecodeRaw
            EditDistance EncodeBase64 Fingerprint ParseExample ParseExampleV2 ParseSequenceExample
            ParseSequenceExampleV2 ParseSingleExample ParseSingleSequenceExample ReduceJoin RegexFullMatch
            RegexReplace ShardedFilename StaticRegexFullMatch StaticRegexReplace StringFormat StringJoin
            StringLength StringLower StringNGrams StringSplit StringSplitV2 StringStrip StringToHashBucket
            StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Substr UnicodeDecode
            UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode UnsortedSegmentJoin
            """,
            # summaries, which are text as well
            """
            AudioSummary AudioSummaryV2 HistogramSummary ImageSummary MergeSummary ScalarSummary TensorSummary
            TensorSummaryV2
            """,
            # images and sounds
            """
            AdjustContrast AdjustContrastv2 AdjustHue AdjustSaturation AudioMicrofrontend AudioSpectrogram
            CombinedNonMaxSuppression CropAndResize CropAndResizeGradBoxes CropAndResizeGradImage DecodeAndCropJpeg
            DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodeJxl DecodePng DecodeWav DecodeWebP DrawBoundingBoxes
            DrawBoundingBoxesV2 EncodeJpeg EncodeJpegVariableQuality EncodePng EncodeWav ExtractGlimpse
            ExtractGlimpseV2 ExtractJpegShape GenerateBoundingBoxProposals HSVToRGB ImageProjectiveTransformV2
            ImageProjectiveTransformV3 Mfcc NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3
            NonMaxSuppressionV4 NonMaxSuppressionV5 NonMaxSuppressionWithOverlaps RGBToHSV ResizeArea ResizeBicubic
            ResizeBicubicGrad ResizeBilinear ResizeBilinearGrad ResizeNearestNeighbor ResizeNearestNeighborGrad
            ScaleAndTranslate ScaleAndTranslateGrad StatelessSampleDistortedBoundingBox
            """,
            # random numbers from a seed that is given
            """
            RandomGammaGrad RandomIndexShuffle SobolSample StatelessMultinomial
            StatelessParameterizedTruncatedNormal StatelessRandomBinomial StatelessRandomGammaV2
            StatelessRandomGammaV3 StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg
            StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomPoisson StatelessRandomUniform
            StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomUniformInt
            StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessShuffle StatelessTruncatedNormal
            StatelessTruncatedNormalV2 StochasticCastToInt
            """,
            # sparse and ragged tensors, sets
            """
            Bincount CSRSparseMatrixComponents CSRSparseMatrixToDense CSRSparseMatrixToSparseTensor DenseBincount
            DenseCountSparseOutput DenseToCSRSparseMatrix DenseToDenseSetOperation DenseToSparseSetOperation
            RaggedBincount RaggedCountSparseOutput RaggedCross RaggedFillEmptyRows RaggedFillEmptyRowsGrad
            RaggedGather RaggedRange RaggedTensorFromVariant RaggedTensorToSparse RaggedTensorToTensor
            RaggedTensorToVariant RaggedTensorToVariantGradient SetSize SparseAdd SparseAddGrad SparseBincount
            SparseConcat SparseCountSparseOutput SparseCross SparseCrossHashed SparseCrossV2 SparseDenseCwiseAdd
            SparseDenseCwiseDiv SparseDenseCwiseMul SparseFillEmptyRows SparseFillEmptyRowsGrad SparseMatMul
            SparseMatrixAdd SparseMatrixMatMul SparseMatrixMul SparseMatrixNNZ SparseMatrixOrderingAMD
            SparseMatrixSoftmax SparseMatrixSoftmaxGrad SparseMatrixSparseCholesky SparseMatrixSparseMatMul
            SparseMatrixTranspose SparseMatrixZeros SparseReduceMax SparseReduceMaxSparse SparseReduceSum
            SparseReduceSumSparse SparseReorder SparseReshape SparseSegmentMean SparseSegmentMeanGrad
            SparseSegmentMeanGradV2 SparseSegmentMeanWithNumSegments SparseSegmentSqrtN SparseSegmentSqrtNGrad
            SparseSegmentSqrtNGradV2 SparseSegmentSqrtNWithNumSegments SparseSegmentSum SparseSegmentSumGrad
            SparseSegmentSumGradV2 SparseSegmentSumWithNumSegments SparseSlice SparseSliceGrad SparseSoftmax
            SparseSoftmaxCrossEntropyWithLogits SparseSparseMaximum SparseSparseMinimum SparseSplit
            SparseTensorDenseAdd SparseTensorDenseMatMul SparseTensorToCSRSparseMatrix SparseToDense
            SparseToSparseSetOperation
            """,
            # integers in the place of floats
            """
            Dequantize FakeQuantWithMinMaxArgs FakeQuantWithMinMaxArgsGradient FakeQuantWithMinMaxVars
            FakeQuantWithMinMaxVarsGradient FakeQuantWithMinMaxVarsPerChannel
            FakeQuantWithMinMaxVarsPerChannelGradient QuantizeAndDequantize QuantizeAndDequantizeV2
            QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeAndDequantizeV4Grad QuantizeDownAndShrinkRange
            QuantizeV2 QuantizedAdd QuantizedAvgPool QuantizedBatchNormWithGlobalNormalization QuantizedBiasAdd
            QuantizedConcat QuantizedConcatV2 QuantizedConv2D QuantizedConv2DAndRelu
            QuantizedConv2DAndReluAndRequantize QuantizedConv2DAndRequantize QuantizedConv2DPerChannel
            QuantizedConv2DWithBias QuantizedConv2DWithBiasAndRelu QuantizedConv2DWithBiasAndReluAndRequantize
            QuantizedConv2DWithBiasAndRequantize QuantizedConv2DWithBiasSignedSumAndReluAndRequantize
            QuantizedConv2DWithBiasSumAndRelu QuantizedConv2DWithBiasSumAndReluAndRequantize
            QuantizedDepthwiseConv2D QuantizedDepthwiseConv2DWithBias QuantizedDepthwiseConv2DWithBiasAndRelu
            QuantizedDepthwiseConv2DWithBiasAndReluAndRequantize QuantizedInstanceNorm QuantizedMatMul
            QuantizedMatMulWithBias QuantizedMatMulWithBiasAndDequantize QuantizedMatMulWithBiasAndRelu
            QuantizedMatMulWithBiasAndReluAndRequantize QuantizedMatMulWithBiasAndRequantize QuantizedMaxPool
            QuantizedMul QuantizedRelu QuantizedRelu6 QuantizedReluX QuantizedReshape QuantizedResizeBilinear
            RequantizationRange RequantizationRangePerChannel Requantize RequantizePerChannel UniformDequantize
            UniformQuantize UniformQuantizedAdd UniformQuantizedClipByValue UniformQuantizedConvolution
            UniformQuantizedConvolutionHybrid UniformQuantizedDot UniformQuantizedDotHybrid UniformRequantize
            """,
            # layers, and their gradients
            """
            AvgPool AvgPool3D AvgPool3DGrad AvgPoolGrad BatchNormWithGlobalNormalization
            BatchNormWithGlobalNormalizationGrad BatchToSpace BatchToSpaceND BiasAdd BiasAddGrad BiasAddV1 BlockLSTM
            BlockLSTMGrad BlockLSTMGradV2 BlockLSTMV2 CTCBeamSearchDecoder CTCGreedyDecoder CTCLoss CTCLossV2
            ComputeAccidentalHits Conv Conv2D Conv2DBackpropFilter Conv2DBackpropFilterV2 Conv2DBackpropInput
            Conv2DBackpropInputV2 Conv3D Conv3DBackpropFilter Conv3DBackpropFilterV2 Conv3DBackpropInput
            Conv3DBackpropInputV2 CudnnRNNCanonicalToParams CudnnRNNCanonicalToParamsV2 CudnnRNNParamsSize
            CudnnRNNParamsToCanonical CudnnRNNParamsToCanonicalV2 DataFormatDimMap DataFormatVecPermute DepthToSpace
            DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput Dilation2D
            Dilation2DBackpropFilter Dilation2DBackpropInput Elu EluGrad ExtractImagePatches ExtractVolumePatches
            FractionalAvgPool FractionalAvgPoolGrad FractionalMaxPool FractionalMaxPoolGrad FusedBatchNorm
            FusedBatchNormGrad FusedBatchNormGradV2 FusedBatchNormGradV3 FusedBatchNormV2 FusedBatchNormV3
            FusedPadConv2D FusedResizeAndPadConv2D GRUBlockCell GRUBlockCellGrad InTopK InTopKV2 L2Loss LRN LRNGrad
            LSTMBlockCell LSTMBlockCellGrad LeakyRelu LeakyReluGrad LogSoftmax MaxPool MaxPool3D MaxPool3DGrad
            MaxPool3DGradGrad MaxPoolGrad MaxPoolGradGrad MaxPoolGradGradV2 MaxPoolGradGradWithArgmax MaxPoolGradV2
            MaxPoolGradWithArgmax MaxPoolV2 MaxPoolWithArgmax NearestNeighbors Relu Relu6 Relu6Grad ReluGrad Selu
            SeluGrad Softmax SoftmaxCrossEntropyWithLogits Softplus SoftplusGrad Softsign SoftsignGrad SpaceToBatch
            SpaceToBatchND SpaceToDepth
            """,
            # linear algebra and Fourier transforms
            """
            BandedTriangularSolve BatchCholesky BatchCholeskyGrad BatchFFT BatchFFT2D BatchFFT3D BatchIFFT
            BatchIFFT2D BatchIFFT3D BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchMatrixBandPart
            BatchMatrixDeterminant BatchMatrixDiag BatchMatrixDiagPart BatchMatrixInverse BatchMatrixSetDiag
            BatchMatrixSolve BatchMatrixSolveLs BatchMatrixTriangularSolve BatchSelfAdjointEig BatchSelfAdjointEigV2
            BatchSvd Cholesky CholeskyGrad Cross Diag DiagPart Eig Einsum FFT FFT2D FFT3D FFTND IFFT IFFT2D IFFT3D
            IFFTND IRFFT IRFFT2D IRFFT3D IRFFTND LogMatrixDeterminant Lu MatMul MatrixBandPart MatrixDeterminant
            MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixExponential
            MatrixInverse MatrixLogarithm MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve MatrixSolveLs
            MatrixSquareRoot MatrixTriangularSolve Qr RFFT RFFT2D RFFT3D RFFTND SelfAdjointEig SelfAdjointEigV2 Svd
            TridiagonalMatMul TridiagonalSolve
            """,
            # arrays: their shapes, slices, orders and sums
            """
            All Any ApproxTopK ArgMax ArgMin Bitcast BroadcastArgs BroadcastGradientArgs BroadcastTo Bucketize Cast
            Concat ConcatOffset ConcatV2 ConjugateTranspose Cumprod Cumsum CumulativeLogsumexp DynamicPartition
            DynamicStitch EuclideanNorm ExpandDims Fill Gather GatherNd GatherV2 HistogramFixedWidth
            InvertPermutation KthOrderStatistic LinSpace ListDiff LowerBound MakeUnique Max Mean Min MirrorPad
            MirrorPadGrad NthElement OneHot OnesLike Pack Pad PadV2 ParallelConcat ParallelDynamicStitch Prod Range
            Rank Reverse ReverseSequence ReverseV2 Roll ScatterNd ScatterNdNonAliasingAdd SegmentMax SegmentMaxV2
            SegmentMean SegmentMin SegmentMinV2 SegmentProd SegmentProdV2 SegmentSum SegmentSumV2 SelectV2 Shape
            ShapeN Size Slice Split SplitV Squeeze StridedSlice StridedSliceGrad Sum TensorScatterAdd
            TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate TensorStridedSliceUpdate Tile
            TileGrad TopK TopKUnique TopKV2 TopKWithUnique Transpose Unique UniqueV2 UniqueWithCounts
            UniqueWithCountsV2 Unpack UnravelIndex UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd
            UnsortedSegmentSum UpperBound Where ZerosLike
            """,
            # arithmetic and functions
            """
            Abs AccumulateNV2 Acos Acosh Add AddN AddV2 Angle ApproximateEqual Asin Asinh Atan Atan2 Atanh BesselI0
            BesselI0e BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e BesselK1 BesselK1e BesselY0 BesselY1
            Betainc BitwiseAnd BitwiseOr BitwiseXor Ceil ClipByValue Complex ComplexAbs Conj Cos Cosh Dawsn Digamma
            Div DivNoNan Equal Erf Erfc Erfinv Exp Expint Expm1 Floor FloorDiv FloorMod FresnelCos FresnelSin
            Greater GreaterEqual Igamma IgammaGradA Igammac Imag Inv InvGrad Invert IsFinite IsInf IsNan
            IsotonicRegression LeftShift Less LessEqual Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr Maximum
            Minimum Mod Mul MulNoNan Ndtri Neg NextAfter NotEqual Polygamma PopulationCount Pow Real RealDiv
            Reciprocal ReciprocalGrad Reshape RightShift Rint Round Rsqrt RsqrtGrad Sigmoid SigmoidGrad Sign Sin
            Sinh Spence Sqrt SqrtGrad Square SquaredDifference Sub Tan Tanh TanhGrad ToBool TruncateDiv TruncateMod
            Xdivy Xlog1py Xlogy Zeta
            """,
        )
    ).split()
)

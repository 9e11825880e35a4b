"""The recipe `sklearn`: an estimator of scikit-learn, by name, as one ONNX graph with its preprocessing."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, JsonValue
from pydantic_core import PydanticCustomError

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.provenance import code_sha256, environment
from services.trainer.recipes.recipe import Parameters
from services.trainer.recipes.row_parameters import RowParameters
from services.trainer.recipes.rows import Answers, Rows
from services.trainer.task import Outcome, Part, TrainingType

AUTO: Final = "auto"
ESTIMATORS: Final = (
    "ARDRegression", "AdaBoostClassifier", "AdaBoostRegressor", "BaggingClassifier", "BaggingRegressor",
    "BayesianRidge", "BernoulliNB", "CalibratedClassifierCV", "CategoricalNB", "ComplementNB", "DecisionTreeClassifier",
    "DecisionTreeRegressor", "ElasticNet", "ElasticNetCV", "ExtraTreeClassifier", "ExtraTreeRegressor",
    "ExtraTreesClassifier", "ExtraTreesRegressor", "GammaRegressor", "GaussianNB", "GaussianProcessClassifier",
    "GaussianProcessRegressor", "GradientBoostingClassifier", "GradientBoostingRegressor",
    "HistGradientBoostingClassifier", "HistGradientBoostingRegressor", "HuberRegressor", "KNeighborsClassifier",
    "KNeighborsRegressor", "Lars", "LarsCV", "Lasso", "LassoCV", "LassoLars", "LassoLarsCV", "LassoLarsIC",
    "LinearDiscriminantAnalysis", "LinearRegression", "LinearSVC", "LinearSVR", "LogisticRegression",
    "LogisticRegressionCV", "MLPClassifier", "MLPRegressor", "MultinomialNB", "NuSVC", "NuSVR",
    "OrthogonalMatchingPursuit", "OrthogonalMatchingPursuitCV", "PLSRegression", "PassiveAggressiveClassifier",
    "PassiveAggressiveRegressor", "Perceptron", "PoissonRegressor", "QuadraticDiscriminantAnalysis",
    "QuantileRegressor", "RANSACRegressor", "RadiusNeighborsClassifier", "RadiusNeighborsRegressor",
    "RandomForestClassifier", "RandomForestRegressor", "Ridge", "RidgeCV", "RidgeClassifier", "RidgeClassifierCV",
    "SGDClassifier", "SGDRegressor", "SVC", "SVR", "TheilSenRegressor", "TweedieRegressor",
)  # fmt: skip
"""What `sklearn_estimators.classes_by_name` finds, for the service that refuses a name at once: to find out imports all
of scikit-learn, which takes seconds."""


def _known(name: str) -> str:
    if name == AUTO or name in ESTIMATORS:
        return name
    by_lower_case = {each.lower(): each for each in ESTIMATORS}
    near = [by_lower_case[each] for each in get_close_matches(name.lower(), by_lower_case)]
    others = f"nearest to it are {', '.join(near)}" if near else f"there are {', '.join(ESTIMATORS)}"
    sentence = f"there is no estimator {name!r} that becomes ONNX; {others}"
    raise PydanticCustomError("unknown_estimator", "{sentence}", {"sentence": sentence})


class SklearnParameters(RowParameters):
    """What an estimator is told."""

    estimator: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_known)] = AUTO
    """Its class in scikit-learn, such as LogisticRegression, RandomForestClassifier or SVR: any classifier or regressor
    that skl2onnx converts; auto: HistGradientBoosting, of the task."""
    estimator_parameters: Annotated[dict[str, JsonValue], Field(default_factory=dict, max_length=100)]
    """What its constructor takes, as scikit-learn's reference says it; JSON values alone."""


class Sklearn:
    """Fits an estimator; nothing is pickled: what is left is ONNX, and answered for on rows that it has not seen."""

    name: ClassVar[str] = "sklearn"
    description: ClassVar[str] = (
        "Fits an estimator of scikit-learn, by name and parameters, and makes one ONNX graph of it and its "
        "preprocessing, checked against scikit-learn's own answers."
    )
    parameters: ClassVar[type[Parameters]] = SklearnParameters
    needs: ClassVar[tuple[str, ...]] = ("sklearn", "skl2onnx", "onnx", "onnxruntime")
    reads_rows: ClassVar[bool] = True
    reads_parent: ClassVar[bool] = False

    def train(self, context: Context) -> Outcome:
        """Fit, export, compare and measure; see Recipe."""
        parameters = SklearnParameters.told(context.parameters)
        if context.task.type is TrainingType.FINETUNE:
            raise TrainingFailed(
                "an estimator of scikit-learn is fitted anew each time, and has no weights to go on from: start a "
                "RETRAIN, or use keras-mlp",
                reason="INVALID_PARAMETERS",
            )
        rows = Rows.prepare(context, parameters)
        # Imported here, for the service that lists the recipes does without.
        from services.trainer.recipes import agreement, onnx_version
        from services.trainer.recipes.sklearn_estimators import made
        from services.trainer.recipes.sklearn_export import export

        regression = rows.target.is_regression
        name = parameters.estimator
        chosen: tuple[str, ...] = ()
        if name == AUTO:
            name = f"HistGradientBoosting{'Regressor' if regression else 'Classifier'}"
            chosen = (f"the estimator is {name}: the parameter estimator names another",)
        estimator = made(name, parameters.estimator_parameters, seed=parameters.seed, regression=regression)
        _fit(estimator, rows.matrix(Part.TRAIN), rows.wanted(Part.TRAIN))
        graph = context.artifact / "model.onnx"
        export(estimator, rows, graph)
        tried = rows.tried()
        own = _answers(estimator, rows, rows.preprocessing.matrix(tried))
        agreement.check("the ONNX graph", onnx_version.run(graph, rows.preprocessing.served(tried)), own, rows.target)
        metrics = {
            part: rows.scores(part, _answers(estimator, rows, rows.matrix(part))) for part in Part if rows.count(part)
        }
        ran_with = environment("numpy", "scikit-learn", "skl2onnx", "onnx", "onnxruntime", "pyarrow")
        return Outcome(
            framework="ONNX",
            label=parameters.label_column,
            features=rows.preprocessing.features,
            input_name=rows.preprocessing.input_name,
            metrics=metrics,
            task_type=rows.target.task_type,
            classes=rows.target.classes,
            environment=ran_with,
            code_sha256=code_sha256(self.name, parameters.model_dump(), ran_with),
            metadata={"estimator": name},
            notes=(*chosen, *rows.notes),
        )


def _fit(estimator: Any, matrix: NDArray[np.float32], wanted: NDArray[Any]) -> None:
    from sklearn.utils._param_validation import InvalidParameterError

    try:
        estimator.fit(matrix, wanted)
    except InvalidParameterError as error:
        raise TrainingFailed(f"estimator_parameters: {error}", reason="INVALID_PARAMETERS") from error
    except ValueError as error:
        sentence = f"{type(estimator).__name__}, told so, cannot learn from these rows: {error}"
        raise TrainingFailed(sentence[:1_000], reason="INVALID_DATA") from error


def _answers(estimator: Any, rows: Rows, matrix: NDArray[np.float32]) -> Answers:
    try:
        said = np.asarray(estimator.predict(matrix))
        if rows.target.is_regression:
            return Answers(numbers=said.astype(np.float32).reshape(-1))
        likely = hasattr(estimator, "predict_proba")
        probabilities = np.asarray(estimator.predict_proba(matrix), np.float32) if likely else None
    except ValueError as error:  # such as of a row that has no neighbour near enough
        sentence = f"{type(estimator).__name__} has no answer to some rows: {error}"
        raise TrainingFailed(sentence[:1_000], reason="INVALID_PARAMETERS") from error
    return Answers(places=said.astype(np.int64), probabilities=probabilities)

"""Law: a projection is the dot product with the unit refusal direction; take it out and 0 is left.

At every token it is that of what forward hooks of the test's own find in the Hugging Face model.
Maps lay the prompts of a layer out as the textbooks say, and the same way every time.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from actor_lens.activations.residuals import Residuals, collect_residuals
from actor_lens.directions.options import FIXED_ORIGINS
from actor_lens.directions.projections import layer_map, project, token_projections
from actor_lens.directions.refusal_directions import Directions, refusal_directions
from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.planted import planted_residuals, random_residuals, residuals_of
from tests.support.tiny_models import (
    N_LAYERS,
    SOME_ARCHITECTURES,
    shared_tiny_model,
    tiny_chat_model,
)
from tests.support.tiny_runs import quick_run, tiny_prompts

COUNTS = {"harmful": 12, "pseudo_harmful": 8, "benign": 10}
FAR_APART = {"harmful": 30.0, "pseudo_harmful": 0.0, "benign": -30.0}


def units_in_float64(directions: Directions) -> np.ndarray:
    vectors = directions.vectors.double().numpy()
    return vectors / np.sqrt((vectors**2).sum(axis=1))[:, None]


@pytest.fixture
def residuals() -> Residuals:
    return random_residuals(per_label=6, n_layers=3, d_model=7, scale=3.0)


def test_projection_is_the_dot_product_in_float64(residuals: Residuals):
    directions = refusal_directions(residuals)
    projections = project(residuals, directions)
    units = units_in_float64(directions)
    for layer in range(residuals.n_layers):
        expected = residuals.values[layer].double().numpy() @ units[layer]
        np.testing.assert_allclose(projections.values[layer], expected, rtol=1e-5, atol=1e-5)
    assert projections.prompts is residuals.prompts


def test_projection_keeps_its_digits_beside_a_large_mean():
    residuals, _ = planted_residuals(COUNTS, (1.0,), offset=3e3, d_model=256)
    directions = refusal_directions(residuals)
    # The unit vector has float32 digits; with it given, the sum must be exact to float32.
    expected = residuals.values[0].double().numpy() @ directions.unit[0].double().numpy()
    np.testing.assert_allclose(project(residuals, directions).values[0], expected, rtol=1.2e-7)


def test_movements_are_means_and_counts_by_label(residuals: Residuals):
    directions = refusal_directions(residuals)
    before = project(residuals, directions)
    after = replace(before, values=before.values + torch.randn(before.values.shape))
    for row in before.movements(after, 1).to_dict("records"):
        places = [i for i, one in enumerate(residuals.prompts.labels) if one == row["label"]]
        first, second = (one.values[1, places].double().numpy() for one in (before, after))
        assert row["n"] == len(places)
        assert row["before"] == pytest.approx(first.mean(), rel=1e-5)
        assert row["after"] == pytest.approx(second.mean(), rel=1e-5)
        assert row["up"] == (second > first).sum()


def test_taking_the_component_out_leaves_nothing(residuals: Residuals):
    directions = refusal_directions(residuals)
    units = units_in_float64(directions)
    values = residuals.values.double().numpy()
    along = np.einsum("lpd,ld->lp", values, units)
    without = residuals_of(values - along[:, :, None] * units[:, None, :], residuals.prompts.labels)
    left = project(without, directions).values
    assert np.abs(along).max() > 1
    np.testing.assert_allclose(left, 0, atol=1e-5)


def test_only_the_way_along_the_direction_counts(residuals: Residuals):
    directions = refusal_directions(residuals)
    before = project(residuals, directions).values
    moved = residuals.values + 2.5 * directions.unit[:, None, :]
    after = project(residuals_of(moved, residuals.prompts.labels), directions).values
    torch.testing.assert_close(after - before, torch.full_like(before, 2.5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("origin", FIXED_ORIGINS)
def test_frame_subtracts_the_origin_of_each_layer(residuals: Residuals, origin: str):
    directions = refusal_directions(residuals)
    projections = project(residuals, directions)
    frame = projections.frame(origin)
    labels = np.array(residuals.prompts.labels)
    assert list(frame.columns) == [
        "layer",
        "prompt_index",
        "prompt",
        "label",
        "split",
        "category",
        "projection",
    ]
    assert len(frame) == residuals.n_layers * len(labels)
    for layer, rows in frame.groupby("layer"):
        values = projections.values[layer].double().numpy()
        benign, harmful = values[labels == "benign"].mean(), values[labels == "harmful"].mean()
        expected = {"zero": 0.0, "benign_mean": benign, "midpoint": (benign + harmful) / 2}
        np.testing.assert_allclose(rows["projection"], values - expected[origin], atol=2e-5)
        assert rows["prompt"].tolist() == list(residuals.prompts.texts)
        assert rows["label"].tolist() == list(labels)


def test_benign_prompts_lie_around_zero_of_the_benign_mean():
    residuals, _ = planted_residuals(COUNTS, (1.0, 2.0), offset=20.0)
    frame = project(residuals, refusal_directions(residuals)).frame("benign_mean")
    means = frame.groupby(["layer", "label"])["projection"].mean()
    np.testing.assert_allclose(means[:, "benign"], 0, atol=1e-4)
    assert (means[:, "harmful"] > means[:, "pseudo_harmful"]).all()


def test_directions_of_another_model_are_refused(residuals: Residuals):
    other = refusal_directions(random_residuals(n_layers=4, d_model=7))
    with pytest.raises(UserError, match="3 layers of width 7, the directions 4 of width 7"):
        project(residuals, other)


# ---- Token by token ----

PROMPT = "How do I kill a Python process?"


def fitted_on(model: ChatModel) -> Directions:
    return refusal_directions(collect_residuals(model, tiny_prompts(4)))


def projected_by_hooks(model: ChatModel, prompt: str, directions: Directions) -> np.ndarray:
    """What every block of the Hugging Face model gives out, projected in float64."""
    units, found = units_in_float64(directions), []
    handles = [
        block.register_forward_hook(
            lambda _, __, output: found.append(output[0] if isinstance(output, tuple) else output)
        )
        for block in model.blocks
    ]
    try:
        ids = model.tokenizer(model.render(prompt), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            model.hf(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    residuals = [states[0].double().numpy() for states in found]
    return np.stack([states @ unit for states, unit in zip(residuals, units, strict=True)])


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_every_token_is_projected_as_hugging_face_hooks_find_it(architecture: str):
    model = shared_tiny_model(architecture)
    directions = fitted_on(model)
    found = token_projections(model, PROMPT, directions)
    truth = projected_by_hooks(model, PROMPT, directions)
    np.testing.assert_allclose(found.values, truth, rtol=1e-5, atol=1e-5)
    assert found.values.dtype == torch.float32
    assert truth.std(axis=1).min() > 0.1  # else one token would be as good as another
    assert (found.prompt, found.model_name) == (PROMPT, model.name)


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_the_last_token_is_what_project_gives(architecture: str):
    model = shared_tiny_model(architecture)
    directions = fitted_on(model)
    residuals = collect_residuals(model, PromptSet((Prompt(PROMPT, "pseudo_harmful"),)))
    expected = project(residuals, directions).values[:, 0]
    found = token_projections(model, PROMPT, directions)
    torch.testing.assert_close(found.last, expected, rtol=1e-6, atol=1e-6)


def test_tokens_are_those_of_the_templated_prompt():
    model = shared_tiny_model()
    found = token_projections(model, "Hi!", fitted_on(model))
    assert found.tokens == ("<s>", "<user>", "H", "i", "!", "<end>", "<assistant>")
    assert found.values.shape == (N_LAYERS, 7)
    assert "".join(token_projections(model, PROMPT, found.directions).tokens) == model.render(
        PROMPT
    )


@pytest.mark.parametrize("origin", FIXED_ORIGINS)
def test_table_of_tokens_subtracts_the_origin_of_each_layer(origin: str):
    model = shared_tiny_model()
    directions = fitted_on(model)
    found = token_projections(model, "Hi", directions)
    frame = found.frame(origin)
    assert list(frame.columns)[2:] == ["token", "projection", "relative", "read"]
    assert len(frame) == N_LAYERS * len(found.tokens)
    unit = units_in_float64(directions)
    means = {label: mean.double().numpy() for label, mean in directions.means.items()}
    for row in frame.itertuples():
        benign, harmful = (means[one][row.layer] @ unit[row.layer] for one in ("benign", "harmful"))
        start = {"zero": 0.0, "benign_mean": benign, "midpoint": (benign + harmful) / 2}[origin]
        expected = float(found.values[row.layer, row.token_index]) - start
        assert row.projection == pytest.approx(expected, abs=1e-4)
        whole = float(found.values[row.layer, row.token_index])
        on_the_way = (whole - benign) / (harmful - benign)
        assert row.relative == pytest.approx(on_the_way, abs=1e-3, rel=1e-3)
        assert row.token == found.tokens[row.token_index]
    assert frame["layer"].is_monotonic_increasing
    assert found.frame().equals(found.frame("zero"))


def test_an_applied_run_is_seen_from_its_block_on():
    model = tiny_chat_model()
    directions = fitted_on(model)
    run = quick_run(model, layer=2, lr=1e-2)
    before = token_projections(model, PROMPT, directions).values
    with run.applied_to(model):
        inside = token_projections(model, PROMPT, directions).values
        truth = projected_by_hooks(model, PROMPT, directions)
    assert torch.equal(inside[:2], before[:2])
    assert float((inside[2] - before[2]).abs().max()) > 0.1
    np.testing.assert_allclose(inside, truth, rtol=1e-5, atol=1e-5)
    assert torch.equal(token_projections(model, PROMPT, directions).values, before)
    assert not model.is_hooked


def test_tokens_of_a_bfloat16_model_are_projected_in_full_precision():
    model = tiny_chat_model()
    model.hf.to(torch.bfloat16)
    directions = fitted_on(model)
    found = token_projections(model, PROMPT, directions)
    # The model's own numbers are coarse, but sums of them are not rounded to bfloat16.
    truth = projected_by_hooks(model, PROMPT, directions)
    np.testing.assert_allclose(found.values, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_has_no_tokens_to_project(prompt: str):
    model = shared_tiny_model()
    with pytest.raises(UserError, match="the prompt is empty; give the text of a user's message"):
        token_projections(model, prompt, fitted_on(model))


def test_a_prompt_too_long_for_the_model_is_told():
    model = shared_tiny_model()
    with pytest.raises(UserError, match=r"has 304 tokens .* 'tiny-llama' takes 256: shorten"):
        token_projections(model, "long " * 60, fitted_on(model))


def test_directions_of_a_model_of_another_shape_are_refused():
    other = refusal_directions(random_residuals(n_layers=3, d_model=7))
    with pytest.raises(UserError, match="'tiny-llama' has 4 layers of width 32, the directions 3"):
        token_projections(shared_tiny_model(), PROMPT, other)


# ---- Maps ----


def test_pca_map_agrees_with_the_singular_vectors(residuals: Residuals):
    points = residuals.values[1].double().numpy()
    centred = points - points.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    found = layer_map(residuals, 1)
    for axis in range(2):
        expected = centred @ axes[axis]
        # Which way an axis points is free; how the prompts lie along it is not.
        sign = np.sign(expected @ found.positions[:, axis])
        np.testing.assert_allclose(found.positions[:, axis], sign * expected, atol=1e-8)
    shares = singular**2 / (singular**2).sum()
    assert found.axes == tuple(f"PC {i + 1} ({100 * shares[i]:.0f} %)" for i in range(2))


def test_pca_axes_point_to_their_largest_loading():
    for seed in range(8):  # either sign comes out of the decomposition for some of them
        residuals = random_residuals(seed=seed)
        points = residuals.values[0].double().numpy()
        positions = layer_map(residuals, 0).positions
        loadings = positions.T @ (points - points.mean(axis=0))
        for row in loadings:
            assert row[np.abs(row).argmax()] > 0
        sklearns = PCA(n_components=2, svd_solver="full").fit_transform(points)
        np.testing.assert_allclose(np.abs(positions), np.abs(sklearns), atol=1e-8)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_planted_groups_stay_apart_on_the_map(method: str):
    residuals, _ = planted_residuals(COUNTS, places=FAR_APART)
    found = layer_map(residuals, 0, method=method)
    assert silhouette_score(found.positions, found.prompts.labels) > 0.5
    frame = found.frame()
    assert list(frame.columns) == [
        "prompt_index",
        "prompt",
        "label",
        "split",
        "category",
        "x",
        "y",
    ]
    np.testing.assert_array_equal(frame[["x", "y"]], found.positions)
    assert frame["label"].tolist() == list(residuals.prompts.labels)
    assert (found.layer, found.method) == (0, method)


def test_tsne_is_repeatable():
    residuals = random_residuals(per_label=8, n_layers=1, d_model=20)
    first, again = (layer_map(residuals, 0, method="tsne", seed=3).positions for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert layer_map(residuals, 0, method="tsne").axes == ("t-SNE 1", "t-SNE 2")


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_three_prompts_are_enough_for_a_map(method: str):
    residuals = random_residuals(per_label=1, d_model=6)
    assert np.isfinite(layer_map(residuals, 0, method=method).positions).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_prompts_on_a_line_have_a_map(method: str):
    values = np.arange(6.0)[None, :, None] * np.ones((1, 6, 4))
    residuals = residuals_of(values, ("harmful", "benign") * 3)
    assert np.isfinite(layer_map(residuals, 0, method=method).positions).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_prompts_at_one_point_have_no_map(method: str):
    residuals = residuals_of(np.full((2, 6, 4), 1.5), ("harmful", "benign") * 3)
    with pytest.raises(UserError, match="all 6 have the same residual at layer 1"):
        layer_map(residuals, 1, method=method)


def test_two_prompts_have_no_map():
    residuals = residuals_of(np.eye(2)[None], ("harmful", "benign"))
    with pytest.raises(UserError, match="at least 3 prompts, got 2"):
        layer_map(residuals, 0)


def test_a_map_of_values_that_are_not_finite_is_refused(residuals: Residuals):
    residuals.values[2, 0, 0] = float("nan")
    assert np.isfinite(layer_map(residuals, 1).positions).all()
    with pytest.raises(UserError, match="at layer 2 hold values that are not finite"):
        layer_map(residuals, 2)


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_out_of_range_is_refused(residuals: Residuals, layer: int):
    with pytest.raises(UserError, match=f"layer {layer} is out of range: layers 0 to 2"):
        layer_map(residuals, layer)


def test_an_unknown_method_is_refused(residuals: Residuals):
    with pytest.raises(UserError, match=r"method 'umap' .*pca, tsne"):
        layer_map(residuals, 0, method="umap")

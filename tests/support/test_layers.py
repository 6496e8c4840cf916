"""Faster layers compute what torch's do, and nobody but they know of it."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from seqloom.support.layers import (
    LEAST_ROWS,
    NOTHING,
    PRODUCTS,
    FastDropout,
    FastLinear,
    gain_of_bfloat16,
    has_onednn,
    in_words,
    measure,
    speed_up,
)

EVERYTHING = {"linear": {"300x130": [*PRODUCTS], "40x300": [*PRODUCTS], "130x40": [*PRODUCTS]}, "dropout": True}
pytestmark = pytest.mark.skipif(not has_onednn(torch.device("cpu")), reason="torch is built without oneDNN")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(130, 300), nn.Dropout(0.25), nn.Linear(300, 40, bias=False), nn.Linear(40, 130))


def losses_and_gradients(model, inputs):
    inputs = inputs.clone().requires_grad_()
    loss = model(inputs).pow(2).mean()
    model.zero_grad()
    loss.backward()
    return [loss.detach(), inputs.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


class TestLinear:
    @pytest.mark.parametrize("products", [["forward"], ["inputs"], ["weight"], [*PRODUCTS]], ids="+".join)
    @pytest.mark.parametrize("shape", [(LEAST_ROWS, 130), (7, 33, 130), (3, 130), (0, 130)])
    def test_loss_and_gradients_are_torchs(self, products, shape):
        plain, fast, inputs = network().eval(), network().eval(), torch.randn(shape)
        speed_up(fast, {"linear": dict.fromkeys(EVERYTHING["linear"], products), "dropout": False})
        assert [type(module) for module in fast if isinstance(module, nn.Linear)] == [FastLinear] * 3
        if inputs.numel():
            for one, other in zip(losses_and_gradients(plain, inputs), losses_and_gradients(fast, inputs), strict=True):
                torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-7)
        assert fast(inputs).shape == plain(inputs).shape

    def test_inputs_that_are_views(self):
        plain, fast = network().eval(), network().eval()
        speed_up(fast, EVERYTHING)
        inputs = torch.randn(130, 90).t()[::2].expand(4, -1, -1)
        torch.testing.assert_close(fast(inputs), plain(inputs), rtol=1e-4, atol=1e-6)

    def test_frozen_parts_get_no_gradient(self):
        model = network().eval()
        model[0].requires_grad_(False)
        speed_up(model, EVERYTHING)
        model(torch.randn(80, 130)).sum().backward()
        assert [p.grad is None for p in (model[0].weight, model[0].bias, model[2].weight)] == [True, True, False]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_another_dtype_is_torchs_own(self, dtype):
        plain, fast = network().eval().to(dtype), network().eval().to(dtype)
        speed_up(fast, EVERYTHING)
        inputs = torch.randn(80, 130, dtype=dtype)
        assert torch.equal(plain(inputs), fast(inputs))

    def test_autocast_is_torchs_own(self):
        plain, fast, inputs = network().eval(), network().eval(), torch.randn(80, 130)
        speed_up(fast, EVERYTHING)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(plain(inputs), fast(inputs))

    def test_tied_weights_add_up(self):
        def tied():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(130, 130, bias=False), nn.Linear(130, 130, bias=False))
            model[1].weight = model[0].weight
            return model

        plain, fast, inputs = tied(), tied(), torch.randn(80, 130)
        speed_up(fast, {"linear": {"130x130": [*PRODUCTS]}, "dropout": False})
        for one, other in zip(losses_and_gradients(plain, inputs), losses_and_gradients(fast, inputs), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-7)

    def test_checkpointed_gradients_are_the_same_bits(self):
        model, inputs = network().train(), torch.randn(80, 130, requires_grad=True)
        speed_up(model, EVERYTHING)
        found = []
        for is_recomputed in (False, True):
            torch.manual_seed(1)
            model.zero_grad()
            outputs = (
                torch.utils.checkpoint.checkpoint(model, inputs, use_reentrant=False)
                if is_recomputed
                else model(inputs)
            )
            outputs.sum().backward()
            found.append([p.grad.clone() for p in model.parameters()])
        assert all(map(torch.equal, *found))


class TestDropout:
    def test_share_and_scale(self):
        torch.manual_seed(0)
        layer, units = FastDropout(0.3), torch.ones(1_000_003)
        outputs = layer(units)
        assert outputs.unique().tolist() == pytest.approx([0, 1 / 0.7], rel=1e-4)
        assert (outputs == 0).float().mean().item() == pytest.approx(0.3, abs=0.002)
        for shift in (1, 2, 3, 4):  # units that are drawn from the same 64 bits are independent all the same
            both = ((outputs[shift:] == 0) & (outputs[:-shift] == 0)).float().mean().item()
            assert both == pytest.approx(0.09, abs=0.002)

    def test_gradient_is_the_mask(self):
        inputs = torch.randn(5, 7, 11, requires_grad=True)
        outputs = FastDropout(0.5)(inputs)
        outputs.sum().backward()
        torch.testing.assert_close(inputs.grad * inputs, outputs)

    @pytest.mark.parametrize("p", [0.0, 1.0])
    def test_nothing_and_everything(self, p):
        units = torch.ones(9)
        assert torch.equal(FastDropout(p)(units), nn.Dropout(p)(units))

    def test_one_seed_one_mask_and_none_in_evaluation(self):
        layer, units = FastDropout(0.5), torch.ones(100)
        masks = []
        for _ in range(2):
            torch.manual_seed(3)
            masks.append(layer(units))
        assert torch.equal(*masks)
        assert layer.eval()(units) is units


class TestNobodyKnows:
    """A layer that was sped up is saved, copied and pickled as the plain one."""

    def test_copies_and_pickles_are_plain(self):
        model = network()
        speed_up(model, EVERYTHING)
        file = io.BytesIO()
        torch.save(model, file)
        assert b"seqloom" not in file.getvalue() + pickle.dumps(model)
        file.seek(0)
        for other in (
            copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False),
        ):  # fmt: skip
            assert [type(module) for module in other] == [nn.Linear, nn.Dropout, nn.Linear, nn.Linear]
            assert vars(other[0]).keys() == vars(nn.Linear(1, 1)).keys()
            assert all(map(torch.equal, other.parameters(), model.parameters()))

    def test_state_dict(self):
        model = network()
        before = model.state_dict()
        speed_up(model, EVERYTHING)
        assert model.state_dict().keys() == before.keys()
        model.load_state_dict(before)

    def test_nothing_chosen_nothing_changed(self):
        model = network()
        speed_up(model, NOTHING)
        assert not any(isinstance(module, (FastLinear, FastDropout)) for module in model)


class TestMeasure:
    def test_it_draws_nothing_and_changes_nothing(self):
        model = network()
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        choice = measure(model, 100, in_float32=True)
        assert torch.equal(torch.rand(3), expected)
        assert set(choice) == {"linear", "dropout"}
        assert choice["linear"].keys() <= {"300x130"}  # the others are too small to be worth it
        assert all(set(names) <= {*PRODUCTS} for names in choice["linear"].values())

    def test_what_need_not_be_measured(self):
        assert measure(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.0)), 100, in_float32=True) == NOTHING
        assert measure(nn.Sequential(nn.Linear(300, 300)), 100, in_float32=False) == NOTHING

    def test_the_gain_of_bfloat16_draws_nothing_either(self):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        assert 0.001 < gain_of_bfloat16() < 1000
        assert torch.equal(torch.rand(3), expected)

    def test_in_words(self):
        assert in_words(NOTHING) is None
        words = in_words({"linear": {"512x128": ["forward", "weight"]}, "dropout": True})
        assert words == (
            "computed faster on this CPU: products of linear layers by oneDNN: 512x128 (forward, weight); dropout from "
            "16 bits a unit"
        )

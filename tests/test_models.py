import math
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import VisionTransformer, mobilenet_v2, resnet18, resnet34, vgg11_bn, vgg16_bn
from torchvision.models.mobilenetv2 import InvertedResidual

from profl.bench.aggregation import leading
from profl.bench.errors import InputError
from profl.bench.models import ModelSpec
from profl.bench.models.registry import models
from profl.bench.models.vit import Attention
from tests.oracles import parameter_counts

BLOCKS = {"resnet10_stride2": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
CONVOLUTIONS = {"vgg11_bn": (1, 1, 2, 4), "vgg16_bn": (2, 2, 3, 6)}
MODELS = sorted(models())
RATES = [Fraction(1, 2**power) for power in range(5)]


def built(name="resnet18", width=64, classes=10, rate=Fraction(1), device="meta"):
    with torch.device(device):
        return ModelSpec(name, width, classes, rate).build()


def counted(name, width, classes, rate):
    """Parameters by arithmetic."""
    if name in CONVOLUTIONS:
        return parameter_counts.vgg(CONVOLUTIONS[name], width, classes, rate)
    if name in ("mobilenet_v2", "vit", "text_transformer"):
        return getattr(parameter_counts, name)(width, classes, rate)
    return parameter_counts.resnet(BLOCKS[name], width, classes, rate)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("blocks", "published"),
    [
        ((2, 2, 2, 2), (11_172_170, 2_796_714, 701_018, 176_178, 44_510)),
        ((1, 1, 1, 2), (9_622_090, 2_408_746, 603_802, 151_762, 38_350)),
        ((3, 4, 6, 3), (21_280_330, 5_325_610, 1_334_170, 334_930, 84_430)),
    ],
)
def test_the_arithmetic_gives_heterofls_published_numbers(blocks, published):
    counts = [parameter_counts.pre_activation_resnet(blocks, 64, 10, rate) for rate in RATES]
    assert tuple(counts) == published


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("resnet10_stride2", 64, (4_903_242, 1_228_970, 308_826, 78_002, 19_902)),
        # At rate 1 the first is ProFL's published ResNet18.
        ("resnet18", 64, (11_173_962, 2_797_610, 701_466, 176_402, 44_622)),
        ("resnet34", 64, (21_282_122, 5_326_506, 1_334_618, 335_154, 84_542)),
        # At rate 1 the first is torchvision's 9,225,984 in front of its classifier, and 5,130.
        ("vgg11_bn", 64, (9_231_114, 2_311_562, 579_786, 145_898, 36_954)),
        ("vgg16_bn", 64, (14_728_266, 3_686_954, 924_186, 232_274, 58_686)),
        # At rate 1 the first is torchvision's with ten classes.
        ("mobilenet_v2", 32, (2_236_682, 587_178, 160_802, 47_208, 15_430)),
        # 12, 6, 3, 2 and 1 heads.
        ("vit", 192, (2_692_042, 682_474, 175_354, 80_042, 21_594)),
        ("text_transformer", 64, (316_682, 84_618, 23_882, 23_882, 23_882)),
    ],
)
def test_parameters_at_every_rate(name, width, expected):
    assert tuple(count(built(name, width, rate=rate)) for rate in RATES) == expected
    assert tuple(counted(name, width, 10, rate) for rate in RATES) == expected


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("width", [5, 8, 16])
@pytest.mark.parametrize("classes", [2, 62, 100])
def test_parameters_of_other_shapes(name, width, classes):
    for rate in (Fraction(1), Fraction(1, 3), Fraction(1, 16)):
        assert count(built(name, width, classes, rate)) == counted(name, width, classes, rate)


@pytest.mark.parametrize(
    ("name", "width", "stem", "stages", "head"),
    [
        ("resnet10_stride2", 64, 1_856, [73_984, 230_144, 919_040, 3_673_088], 5_130),
        ("resnet18", 64, 1_856, [147_968, 525_568, 2_099_712, 8_393_728], 5_130),
        ("resnet34", 64, 1_856, [221_952, 1_116_416, 6_822_400, 13_114_368], 5_130),
        ("vgg11_bn", 64, 1_920, [74_112, 886_272, 8_263_680], 5_130),
        ("vgg16_bn", 64, 38_976, [221_952, 1_476_864, 12_985_344], 5_130),
        ("mobilenet_v2", 32, 928, [14_864, 39_696, 487_040, 1_681_344], 12_810),
        ("vit", 192, 21_696, [889_344, 889_344, 889_344], 2_314),
    ],
)
def test_parameters_of_the_parts(name, width, stem, stages, head):
    model = built(name, width)
    assert (count(model.stem), [count(stage) for stage in model.stages], count(model.head)) == (stem, stages, head)


@pytest.mark.parametrize(("name", "published"), [("resnet18", resnet18), ("resnet34", resnet34)])
def test_resnet_is_torchvisions_but_for_the_stem(name, published):
    with torch.device("meta"):
        whole = published()
        whole.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    features = nn.Sequential(
        *(whole.conv1, whole.bn1, whole.relu, whole.layer1, whole.layer2, whole.layer3, whole.layer4)
    )
    assert built(name).stages[1].state_dict().keys() == whole.layer2.state_dict().keys()
    given = assert_same_features(built(name, device="cpu"), features, torch.randn(2, 3, 32, 32))
    assert given.shape == (2, 512, 4, 4)


@pytest.mark.parametrize(("name", "published"), [("vgg11_bn", vgg11_bn), ("vgg16_bn", vgg16_bn)])
def test_vgg_is_torchvisions_up_to_the_classifier(name, published):
    pictures = torch.randn(2, 3, 32, 32)
    with torch.device("meta"):
        features = published().features
    given = assert_same_features(built(name, device="cpu"), features, pictures)
    assert given.shape == (2, 512, 1, 1)


def test_mobilenet_is_torchvisions_but_for_two_strides_and_the_dropout():
    with torch.device("meta"):
        features = mobilenet_v2().features
    features[0][0].stride = features[2].conv[1][0].stride = (1, 1)
    given = assert_same_features(built("mobilenet_v2", 32, device="cpu"), features, torch.randn(2, 3, 32, 32))
    assert given.shape == (2, 1280, 4, 4)


def assert_same_features(model, published, pictures):
    """Returns what a network gives in front of its head, which is what ``published`` gives with the same values."""
    features = nn.Sequential(model.stem, *model.stages).eval()
    values = features.state_dict().values()
    published.to_empty(device="cpu").eval()
    published.load_state_dict(dict(zip(published.state_dict(), values, strict=True)))
    with torch.inference_mode():
        given = features(pictures)
        assert torch.equal(given, published(pictures))
    return given


def test_a_depthwise_convolution_has_a_group_for_every_channel_at_every_rate():
    for rate in RATES:
        parts = built("mobilenet_v2", 8, rate=rate).modules()
        residuals = [part for part in parts if isinstance(part, InvertedResidual)]
        assert len(residuals) == 17
        for depthwise in (residual.conv[-3][0] for residual in residuals):
            assert depthwise.groups == depthwise.in_channels == depthwise.out_channels


def test_a_vit_is_torchvisions_but_for_the_class_token_and_three_biases():
    model = built("vit", 48, device="cpu").eval()
    published = VisionTransformer(32, 4, 9, 3, 48, 96, num_classes=10, norm_layer=nn.LayerNorm).eval()
    assert count(published) == count(model) + 9 * 3 * 48 + 2 * 48
    layers = [layer for stage in model.stages for layer in stage]
    for layer, theirs in zip(layers, published.encoder.layers, strict=True):
        attention = layer.attention
        in_projection = torch.cat([part.weight for part in (attention.query, attention.key, attention.value)])
        attention_values = [in_projection, torch.zeros(3 * 48), *attention.output.state_dict().values()]
        values = [layer.attention_norm, attention_values, layer.perceptron_norm, layer.perceptron]
        flat = [value for part in values for value in (part if isinstance(part, list) else part.state_dict().values())]
        theirs.load_state_dict(dict(zip(theirs.state_dict(), flat, strict=True)))
    tokens = torch.randn(2, 64, 48)
    with torch.inference_mode():
        picture = tokens.transpose(1, 2).unflatten(2, (8, 8))
        given = nn.Sequential(*model.stages)(picture).flatten(2).transpose(1, 2)
        torch.testing.assert_close(given, published.encoder.layers(tokens), rtol=1e-4, atol=1e-4)


def test_a_text_is_told_by_its_characters_and_their_places():
    model = built("text_transformer", 16, device="cpu").eval()
    codes = torch.arange(128).expand(2, 128).clone()
    codes[1] = codes[1].flip(0)
    with torch.inference_mode():
        first, reversed_ = model(codes)
    assert not torch.allclose(first, reversed_, atol=1e-3)


def test_a_narrower_attention_has_the_leading_heads():
    wide, narrow = Attention(48), Attention(16)
    values = wide.state_dict()
    narrow.load_state_dict({name: leading(values[name], value.shape) for name, value in narrow.state_dict().items()})
    tokens = torch.randn(2, 5, 16)
    with torch.no_grad():
        wide.value.weight[16:] = 0  # what other heads see is silent
        padded = functional.pad(tokens, (0, 32))
        torch.testing.assert_close(narrow(tokens), wide(padded)[..., :16])


@pytest.mark.parametrize(
    ("width", "rate", "channels"), [(192, Fraction(1, 8), 32), (20, Fraction(1), 32), (4, Fraction(1, 2), 16)]
)
def test_a_vit_has_whole_heads(width, rate, channels):
    assert set(built("vit", width, rate=rate).stage_channels) == {channels}


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"vit", "text_transformer"}))
def test_convolutions_start_as_kaiming_has_them(name):
    convolutions = [part for part in built(name, 64, device="cpu").modules() if isinstance(part, nn.Conv2d)]
    for part in convolutions:
        outputs, _, *kernel = part.weight.shape
        deviation = (2 / (outputs * math.prod(kernel))) ** 0.5
        assert part.weight.std().item() == pytest.approx(deviation, rel=0.1)
        assert part.bias is None or not part.bias.any()


@pytest.mark.parametrize("name", MODELS)
def test_channels_and_strides_are_those_of_the_features(name):
    model = built(name, width=6, rate=Fraction(1, 4), device="cpu").eval()
    features = model.stem(torch.zeros(2, *model.input_shape, dtype=model.input_dtype))
    side = {"resnet10_stride2": 16, "vgg11_bn": 16, "vgg16_bn": 16, "vit": 8}.get(name, 32)
    sides = (1, 128) if name == "text_transformer" else (side, side)
    assert features.shape == (2, model.stage_channels[0], *sides)
    for stage, channels, stride in zip(model.stages, model.stage_channels[1:], model.stage_strides, strict=True):
        sides = tuple(size // stride for size in sides)
        features = stage(features)
        assert features.shape == (2, channels, *sides)
    assert model.head(features).shape == (2, 10)


@pytest.mark.parametrize("name", MODELS)
def test_the_classifier_is_the_layer_that_gives_the_logits(name):
    model = built(name, width=6, classes=7)
    classifier = model.get_submodule(model.classifier_name)
    assert (classifier.in_features, classifier.out_features) == (model.stage_channels[-1], 7)


@pytest.mark.parametrize("name", MODELS)
def test_a_narrower_model_has_the_same_tensors_only_smaller(name):
    wide, narrow = built(name, 16).state_dict(), built(name, 16, rate=Fraction(1, 4)).state_dict()
    assert list(wide) == list(narrow)
    for key, value in narrow.items():
        assert all(small <= large for small, large in zip(value.shape, wide[key].shape, strict=True))


@pytest.mark.parametrize(
    ("rate", "multiple", "channels"),
    [(Fraction(1), 8, 80), (Fraction(1, 2), 1, 5), (Fraction(1, 3), 1, 4), (Fraction(1, 16), 1, 1)],
)
def test_channels_are_rounded_up(rate, multiple, channels):
    assert ModelSpec("resnet18", 10, 10, rate).channels(multiple) == channels


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(InputError, match="resnet10_stride2, resnet18, resnet34, "):
        ModelSpec("resnet50", 64, 10).build()

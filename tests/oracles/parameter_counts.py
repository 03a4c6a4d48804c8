"""Trainable parameters of the networks by arithmetic alone: no torch, no code of the bench."""

from fractions import Fraction
from itertools import pairwise


def conv(size, inputs, outputs):
    return size * size * inputs * outputs


def depthwise(size, channels):
    return size * size * channels


def norm(channels):
    return 2 * channels


def linear(inputs, outputs):
    return inputs * outputs + outputs


def widths(width, rate):
    """Channels of 1, 2, 4 and 8 widths (a ResNet's four stages): the rate's share, rounded up."""
    return [-(-Fraction(rate) * width * 2**stage // 1) for stage in range(4)]


def stem(channels):
    return conv(3, 3, channels) + norm(channels)


def post_activation_stage(inputs, outputs, blocks, stride):
    total = 0
    for block in range(blocks):
        total += conv(3, inputs, outputs) + norm(outputs) + conv(3, outputs, outputs) + norm(outputs)
        if block == 0 and stride == 2:
            total += conv(1, inputs, outputs) + norm(outputs)
        inputs = outputs
    return total


def resnet_stages(blocks, width, rate=1):
    """Parameters of every stage of the bench's own ResNets."""
    channels = widths(width, rate)
    inputs = [channels[0], *channels[:-1]]
    return [
        post_activation_stage(inputs[stage], channels[stage], blocks[stage], 1 if stage == 0 else 2)
        for stage in range(4)
    ]


def resnet(blocks, width, classes, rate=1):
    channels = widths(width, rate)
    return stem(channels[0]) + sum(resnet_stages(blocks, width, rate)) + linear(channels[-1], classes)


def resnet_parts(blocks, width):
    """Parameters of stem and stages."""
    return [stem(widths(width, 1)[0]), *resnet_stages(blocks, width)]


def vgg_parts(convolutions, width, rate=1):
    """Parameters of stem and stages: convolutions with a bias, each with a norm; so many in each of the four."""
    total, inputs = [], 3
    for outputs, number in zip(widths(width, rate), convolutions, strict=True):
        sources = [inputs] + [outputs] * (number - 1)
        total.append(sum(conv(3, source, outputs) + outputs + norm(outputs) for source in sources))
        inputs = outputs
    return total


def vgg(convolutions, width, classes, rate=1):
    return sum(vgg_parts(convolutions, width, rate)) + linear(widths(width, rate)[-1], classes)


def mobilenet_v2_parts(width, rate=1):
    """Parameters of stem and stages of MobileNetV2: its table's rows, 32 channels of which are one width."""

    def share(published):
        return -(-Fraction(rate) * width * published // 32)

    inputs = share(32)
    total = [stem(inputs)]
    rows = [[(1, 16, 1), (6, 24, 2)], [(6, 32, 3)], [(6, 64, 4), (6, 96, 3)], [(6, 160, 3), (6, 320, 1)]]
    for stage in rows:
        total.append(0)
        for expansion, published, blocks in stage:
            outputs = share(published)
            for _ in range(blocks):
                inner = expansion * inputs
                expand = conv(1, inputs, inner) + norm(inner) if expansion > 1 else 0
                total[-1] += expand + depthwise(3, inner) + norm(inner) + conv(1, inner, outputs) + norm(outputs)
                inputs = outputs
    total[-1] += conv(1, inputs, share(1280)) + norm(share(1280))
    return total


def mobilenet_v2(width, classes, rate=1):
    return sum(mobilenet_v2_parts(width, rate)) + linear(-(-Fraction(rate) * width * 40 // 1), classes)


def transformer_stages(channels):
    attention = 3 * channels**2 + linear(channels, channels)
    perceptron = linear(channels, 2 * channels) + linear(2 * channels, channels)
    layer = norm(channels) + attention + norm(channels) + perceptron
    return 9 * layer


def whole_heads(width, rate):
    return 16 * -(-Fraction(rate) * width // 16)


def vit(width, classes, rate=1):
    channels = whole_heads(width, rate)
    stem = linear(4 * 4 * 3, channels) + 8 * 8 * channels
    return stem + transformer_stages(channels) + norm(channels) + linear(channels, classes)


def text_transformer(width, classes, rate=1):
    channels = whole_heads(width, rate)
    return 2 * 128 * channels + transformer_stages(channels) + norm(channels) + linear(channels, classes)


def pre_activation_resnet(blocks, width, classes, rate=1):
    """HeteroFL's own ResNet: no norm behind the stem and the shortcuts, one in front of every convolution."""
    channels = widths(width, rate)
    total, inputs = conv(3, 3, channels[0]), channels[0]
    for stage, outputs in enumerate(channels):
        for block in range(blocks[stage]):
            total += norm(inputs) + conv(3, inputs, outputs) + norm(outputs) + conv(3, outputs, outputs)
            if inputs != outputs or (block == 0 and stage > 0):
                total += conv(1, inputs, outputs)
            inputs = outputs
    return total + norm(inputs) + linear(inputs, classes)


def separable(inputs, outputs):
    first = depthwise(3, inputs) + conv(1, inputs, inputs) + norm(inputs)
    return first + depthwise(3, inputs) + conv(1, inputs, outputs) + norm(outputs)


def depthfl(parts, channels, classes, depth):
    """Stem and first stages of a network (``parts``) with DepthFL's exit behind each.

    ``channels`` are those that leave the stages. The exit of the whole depth is the network's own head.
    """
    total = sum(parts[: depth + 1])
    for stage in range(depth):
        if stage < len(channels) - 1:
            total += separable(channels[stage], channels[stage]) + norm(channels[stage])
            total += sum(separable(*pair) for pair in pairwise(channels[stage:]))
        total += linear(channels[-1], classes)
    return total


def inclusivefl(parts, channels, classes, depth):
    """Stem and first stages of a network with one linear exit."""
    return sum(parts[: depth + 1]) + linear(channels[depth - 1], classes)

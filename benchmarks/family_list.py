"""The models of the coverage run: the smallest of each family of timm and transformers.

Arguments beside a name make a model smaller (fewer blocks, smaller images) where the smallest
published one is large; kinds of layers and their order stay those of the family.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FamilyModel:
    """One model of the coverage run.

    Args:
        name: Of the model in timm, or of the class in transformers.
        family: What publications call the architecture.
        library: "timm" or "transformers".
        is_mobile: Whether it is a hybrid made for mobile and edge devices.
        arguments: Of its constructor or configuration, where the published ones are large.
        image: Height and width of its images, 0 for those that the model says.
    """

    name: str
    family: str
    library: str
    is_mobile: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    image: int = 0


CONFIG = object()
"""Marks an argument that is a configuration of its own: (CONFIG, class, arguments)."""

_MOBILE = """
MobileViT: mobilevit_xxs
MobileViTv2: mobilevitv2_050
EfficientViT (MIT): efficientvit_b0, efficientvit_l1
EfficientViT (MSRA): efficientvit_m0
EfficientFormer: efficientformer_l1
EfficientFormerV2: efficientformerv2_s0
TinyViT: tiny_vit_5m_224
FastViT: fastvit_t8, fastvit_sa12
LeViT: levit_128s, levit_conv_128s
EdgeNeXt: edgenext_xx_small
PoolFormer: poolformer_s12
RepViT: repvit_m0_9
SwiftFormer: swiftformer_xs
SHViT: shvit_s1
MobileNetV4-Hybrid: mobilenetv4_hybrid_medium_075
NextViT: nextvit_small
MobileCLIP: fastvit_mci0, vit_base_mci_224
iFormer: iformer_t
LowFormer: lowformer_b0
CPUBone: cpubone_nano
EfficientViM: efficientvim_m1
MobileOne: mobileone_s0
GhostNetV2: ghostnetv2_100
GhostNetV3: ghostnetv3_100
MobileNetV5: mobilenetv5_base
"""
"""Family: models of timm, hybrids for mobile and edge devices."""

_SERVER = """
ViT: test_vit, vit_tiny_patch16_224(depth=4)
ViT, second generation of tests: test_vit2, test_vit3, test_vit4
DeiT: deit_tiny_patch16_224(depth=4)
DeiT distilled: deit_tiny_distilled_patch16_224(depth=4)
DeiT III: deit3_small_patch16_224(depth=4)
DINOv2: vit_small_patch14_dinov2(depth=4, img_size=224)
DINOv2 with registers: vit_small_patch14_reg4_dinov2(depth=4, img_size=224, num_classes=10)
DINOv3: vit_tiny_patch16_dinov3_qkvb(depth=4)
EVA: eva_giant_patch14_224(depth=4, embed_dim=352, num_heads=4)
EVA-02: eva02_tiny_patch14_224(depth=4)
ViT with rotary positions: vit_small_patch16_rope_224(depth=4)
ViT with mixed rotary positions: vit_small_patch16_rope_mixed_224(depth=4)
Perception Encoder: vit_pe_core_tiny_patch16_384(depth=4, img_size=224)
Sapiens2: vit_base_patch16_sapiens2(depth=3, img_size=224, num_kv_heads=12)
LingBot: vit_small_patch16_lingbot(depth=4, img_size=224)
CLIP: vit_xsmall_patch16_clip_224(depth=4)
CLIP with quick GELU: vit_base_patch32_clip_quickgelu_224(depth=3)
SigLIP: vit_base_patch16_siglip_224(depth=3)
AIMv2: aimv2_large_patch14_224(depth=2, embed_dim=512, num_heads=4)
TIPSv2: vit_base_patch14_reg1_tipsv2(depth=3, img_size=224)
BEiT-3: beit3_base_patch16_224(depth=3)
FlexiViT: flexivit_small(depth=4)
RADIO: vit_base_patch16_radio_v3(depth=3, img_size=224)
SoViT: vit_so150m2_patch16_reg1_gap_256(depth=3)
InternViT: vit_intern300m_patch14_448(depth=2, img_size=224, embed_dim=512)
ViT with registers: vit_wee_patch16_reg1_gap_256(depth=4)
ViT with parallel branches: vit_pwee_patch16_reg1_gap_256(depth=4)
ViT with parallel blocks: vit_small_patch16_18x2_224(depth=3)
ViT with differential attention: vit_dwee_patch16_reg1_gap_256(depth=4)
ViT with relative positions: test_vit_relpos
ViT with shared relative positions: vit_srelpos_small_patch16_224(depth=4)
ViT hybrid: vit_tiny_r_s16_p8_224(depth=4)
SAM: samvit_base_patch16_224(depth=4, global_attn_indexes=(1, 3))
SAM 2 Hiera: sam2_hiera_tiny(224, stages=(1, 1, 2, 1), global_att_blocks=(3,))
BEiT: beit_base_patch16_224(depth=3)
BEiTv2: beitv2_base_patch16_224(depth=3)
DeepSeek-ViT: deepseek_vit_412m(depth=2, img_size=224)
Gemma4 ViT: gemma4_vit_167m(192, depth=3)
Qwen3 ViT: qwen3_vit_88m(224, depth=3)
NaFlexViT: naflexvit_base_patch16_gap(224, depth=3)
BoTNet: botnet26t_256
BoTNeXt: eca_botnext26ts_256
HaloNet: halonet_h1
HaloNeXt: eca_halonext26ts
LambdaNet: lambda_resnet26t
SE-BoTNet: sebotnet33ts_256
CaiT: cait_xxs24_224(depth=4)
CoaT: coat_tiny(serial_depths=(1, 1, 1, 1), parallel_depth=2)
CoaT-Lite: coat_lite_tiny(serial_depths=(1, 1, 2, 1))
ConViT: convit_tiny(depth=4, local_up_to_layer=2)
CrossViT: crossvit_tiny_240(depth=((1, 2, 0), (1, 2, 0)))
CrossViT dagger: crossvit_9_dagger_240(depth=((1, 2, 0), (1, 2, 0)))
CSATv2: csatv2
DaViT: davit_tiny(depths=(1, 1, 2, 1))
FocalNet: focalnet_tiny_srf
GCViT: gcvit_xxtiny
Hiera: hiera_tiny_224(stages=(1, 2, 3, 1))
CoAtNet: test_coatnet, coatnet_pico_rw_224
CoAtNeXt: coatnext_nano_rw_224
MaxViT: test_maxvit, maxvit_pico_rw_256
MaxxViT: maxxvit_rmlp_nano_rw_256
MaxxViTv2: maxxvitv2_nano_rw_256
PoolFormerV2: poolformerv2_s12
ConvFormer: convformer_s18
CAFormer: caformer_s18
MLP-Mixer: mixer_s32_224
gMLP: gmlp_ti16_224
ResMLP: resmlp_12_224
GMixer: gmixer_12_224
MViTv2: mvitv2_tiny
NesT: jx_nest_tiny
PiT: pit_ti_224(depth=(1, 2, 1)), pit_ti_distilled_224(depth=(1, 2, 1))
PVTv2: pvt_v2_b0(depths=(1, 1, 2, 1))
PVTv2 linear: pvt_v2_b2_li(depths=(1, 1, 2, 1))
Sequencer2D: sequencer2d_s(layers=(1, 1, 2, 1))
Swin: swin_tiny_patch4_window7_224(depths=(2, 2, 2, 1))
Swin S3: swin_s3_tiny_224(depths=(2, 2, 2, 1))
SwinV2: swinv2_tiny_window8_256(depths=(2, 2, 2, 1))
SwinV2-CR: swinv2_cr_tiny_224(depths=(2, 2, 2, 1))
TNT: tnt_s_legacy_patch16_224(depth=4)
Twins-PCPVT: twins_pcpvt_small(depths=(1, 1, 2, 1))
Twins-SVT: twins_svt_small(depths=(2, 2, 2, 2))
Visformer: visformer_tiny(depth=(3, 2, 2))
ViTamin: vitamin_small_224(depth=4)
VOLO: volo_d1_224
XCiT: xcit_nano_12_p16_224(depth=4)
"""
"""Family: models of timm, with the side of an image and arguments that make it shallow."""

_SMALL = {
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 768,
}
_RATIO = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3}
_DINO = (
    CONFIG,
    "Dinov2Config",
    {
        **_RATIO,
        "image_size": 224,
        "out_indices": [1, 2, 3, 4],
        "reshape_hidden_states": False,
        "apply_layernorm": True,
    },
)
_DEPTH = {"neck_hidden_sizes": [24, 48, 96, 192], "fusion_hidden_size": 32}

_TRANSFORMERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "ViT in transformers": ("ViTForImageClassification", _SMALL, 0),
    "DeiT in transformers": ("DeiTForImageClassification", _SMALL, 0),
    "DeiT with teacher": ("DeiTForImageClassificationWithTeacher", _SMALL, 0),
    "ViT-MSN": ("ViTMSNForImageClassification", _SMALL, 0),
    "ViT-MAE": ("ViTMAEModel", {**_SMALL, "mask_ratio": 0.0}, 0),
    "I-JEPA": ("IJepaForImageClassification", _SMALL, 0),
    "BEiT in transformers": ("BeitForImageClassification", _SMALL, 0),
    "Data2Vec": ("Data2VecVisionForImageClassification", _SMALL, 0),
    "DINOv2 in transformers": ("Dinov2ForImageClassification", _RATIO, 224),
    "DINOv2 with registers in transformers": (
        "Dinov2WithRegistersForImageClassification",
        {**_RATIO, "image_size": 224},
        0,
    ),
    "DINOv3 in transformers": ("DINOv3ViTModel", {**_SMALL, "num_register_tokens": 4}, 0),
    "Swin in transformers": ("SwinForImageClassification", {}, 0),
    "SwinV2 in transformers": ("Swinv2ForImageClassification", {}, 0),
    "Donut-Swin": ("DonutSwinForImageClassification", {"depths": [1, 1, 2, 1]}, 0),
    "Hiera in transformers": ("HieraForImageClassification", {"embed_dim": 48}, 0),
    "PVT": ("PvtForImageClassification", {"hidden_sizes": [32, 64, 160, 256]}, 0),
    "PVTv2 in transformers": ("PvtV2ForImageClassification", {}, 0),
    "CvT": ("CvtForImageClassification", {"depth": [1, 2, 4]}, 0),
    "FocalNet in transformers": ("FocalNetForImageClassification", {"depths": [1, 1, 2, 1]}, 0),
    "LeViT in transformers": ("LevitForImageClassification", {"depths": [2, 3, 4]}, 0),
    "LeViT with teacher": ("LevitForImageClassificationWithTeacher", {"depths": [2, 3, 4]}, 0),
    "MobileViT in transformers": (
        "MobileViTForImageClassification",
        {
            "hidden_sizes": [64, 80, 96],
            "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320],
            "expand_ratio": 2.0,
        },
        0,
    ),
    "MobileViTv2 in transformers": (
        "MobileViTV2ForImageClassification",
        {"width_multiplier": 0.5},
        0,
    ),
    "PoolFormer in transformers": ("PoolFormerForImageClassification", {}, 224),
    "SwiftFormer in transformers": (
        "SwiftFormerForImageClassification",
        {"depths": [3, 3, 6, 4], "embed_dims": [48, 56, 112, 220]},
        0,
    ),
    "CLIP in transformers": (
        "CLIPForImageClassification",
        {"vision_config": {**_SMALL, "patch_size": 16}, "num_labels": 10},
        224,
    ),
    "MetaCLIP 2": (
        "MetaClip2ForImageClassification",
        {"vision_config": {**_SMALL, "patch_size": 16}, "num_labels": 10},
        224,
    ),
    "SigLIP in transformers": (
        "SiglipForImageClassification",
        {"vision_config": _SMALL, "num_labels": 10},
        224,
    ),
    "CLIP tower": ("CLIPVisionModelWithProjection", {**_SMALL, "projection_dim": 128}, 0),
    "SigLIP tower": ("SiglipVisionModel", _SMALL, 0),
    "AIMv2 in transformers": ("Aimv2VisionModel", {**_SMALL, "image_size": 224}, 0),
    "MLCD": ("MLCDVisionModel", {**_SMALL, "image_size": 224}, 0),
    "BLIP": ("BlipVisionModel", {**_SMALL, "image_size": 224}, 0),
    "BLIP-2": ("Blip2VisionModel", {**_SMALL, "image_size": 224}, 0),
    "Chinese-CLIP": ("ChineseCLIPVisionModel", _SMALL, 0),
    "AltCLIP": ("AltCLIPVisionModel", _SMALL, 0),
    "CLIPSeg": ("CLIPSegVisionModel", _SMALL, 0),
    "GroupViT": (
        "GroupViTVisionModel",
        {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3},
        0,
    ),
    "OWL-ViT": ("OwlViTVisionModel", {**_SMALL, "image_size": 224}, 0),
    "InternVL": ("InternVLVisionModel", {**_SMALL, "image_size": [224, 224]}, 0),
    "Pixio": ("PixioModel", {**_SMALL, "image_size": 224}, 0),
    "TIPSv2 in transformers": ("Tipsv2VisionModel", {**_SMALL, "image_size": 224}, 0),
    "SegFormer": ("SegformerForSemanticSegmentation", {}, 128),
    "SegFormer as a classifier": ("SegformerForImageClassification", {}, 224),
    "GLPN": ("GLPNForDepthEstimation", {"decoder_hidden_size": 32}, 128),
    "DPT": (
        "DPTForDepthEstimation",
        {**_SMALL, **_DEPTH, "image_size": 128, "backbone_out_indices": [0, 1, 2, 3]},
        0,
    ),
    "Depth Anything": (
        "DepthAnythingForDepthEstimation",
        {**_DEPTH, "backbone_config": _DINO, "reassemble_hidden_size": 192},
        224,
    ),
    "YOLOS": ("YolosForObjectDetection", {**_SMALL, "image_size": [224, 224]}, 0),
    "ViTDet": (
        "VitDetModel",
        {
            **_RATIO,
            "image_size": 224,
            "window_size": 7,
            "window_block_indices": [0, 2],
            "use_relative_position_embeddings": True,
        },
        0,
    ),
    "ViTPose": (
        "VitPoseForPoseEstimation",
        {
            "backbone_config": (
                CONFIG,
                "VitPoseBackboneConfig",
                {**_RATIO, "image_size": [128, 128], "out_indices": [4]},
            ),
            "num_labels": 17,
        },
        128,
    ),
    "SAM in transformers": (
        "SamVisionModel",
        {
            **_RATIO,
            "image_size": 224,
            "window_size": 7,
            "global_attn_indexes": [1, 3],
            "mlp_dim": 768,
            "output_channels": 64,
            "num_pos_feats": 32,
        },
        0,
    ),
    "SAM-HQ": (
        "SamHQVisionModel",
        {
            **_RATIO,
            "image_size": 224,
            "window_size": 7,
            "global_attn_indexes": [1, 3],
            "mlp_dim": 768,
            "output_channels": 64,
            "num_pos_feats": 32,
        },
        0,
    ),
    "SAM 2 in transformers": ("Sam2VisionModel", {}, 256),
    "EoMT": (
        "EomtForUniversalSegmentation",
        {**_RATIO, "image_size": 128, "num_queries": 20, "num_blocks": 2},
        0,
    ),
    "UPerNet": (
        "UperNetForSemanticSegmentation",
        {
            "backbone_config": (
                CONFIG,
                "SwinConfig",
                {
                    "embed_dim": 48,
                    "depths": [1, 1, 2, 1],
                    "image_size": 128,
                    "out_features": ["stage1", "stage2", "stage3", "stage4"],
                },
            ),
            "hidden_size": 64,
            "auxiliary_in_channels": 192,
        },
        128,
    ),
}
"""Family: class in transformers, its configuration, height and width of its images."""


def family_models() -> tuple[FamilyModel, ...]:
    """Return all models of the run, hybrids for edge devices first."""
    return (*_from_table(_MOBILE, True), *_from_table(_SERVER, False), *_transformers())


def _from_table(table: str, is_mobile: bool) -> list[FamilyModel]:
    rows = [line.split(": ") for line in table.strip().splitlines()]
    return [
        FamilyModel(
            name=call.func.id if isinstance(call, ast.Call) else call.id,
            family=family,
            library="timm",
            is_mobile=is_mobile,
            arguments=_arguments(call),
            image=_image(call),
        )
        for family, models in rows
        for call in ast.parse(f"[{models}]", mode="eval").body.elts
    ]


def _arguments(call: ast.expr) -> dict[str, Any]:
    """Return the keyword arguments of a written call, which hold plain values only."""
    given = call.keywords if isinstance(call, ast.Call) else []
    return {str(one.arg): ast.literal_eval(one.value) for one in given}


def _image(call: ast.expr) -> int:
    """Return the one positional argument of a written call: the side of an image."""
    given = call.args if isinstance(call, ast.Call) else []
    return int(ast.literal_eval(given[0])) if given else 0


def _transformers() -> list[FamilyModel]:
    return [
        FamilyModel(
            name=name, family=family, library="transformers", arguments=arguments, image=image
        )
        for family, (name, arguments, image) in _TRANSFORMERS.items()
    ]

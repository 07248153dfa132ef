"""Words of module names that have an underscore in them, by which a name without dots is taken apart.

They are those of the UNets, transformers and text encoders of diffusers and transformers, and of the original
implementations whose names trainers keep. Every other underscore of such a name stands for a dot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

_TEXT = """
adaLN_mlp_ln adaLN_modulation adaLN_sa_ln adaln_modulation adaln_modulation_cross_attn adaln_modulation_mlp
adaln_modulation_self_attn adaln_proj adaln_single add_embedding add_k_proj add_q_proj add_time_condition add_v_proj
all_final_layer all_x_embedder aspect_ratio_embedder attention_norm1 attention_norm2 attention_y_norm audio_attn1
audio_attn2 audio_caption_projection audio_dec_block audio_embeddings audio_ff audio_out_layer
audio_pooled_text_embeddings audio_proj_in audio_proj_out audio_text_embeddings audio_text_transformer_blocks
audio_time_embed audio_time_embeddings audio_to_video_attn av_cross_attention av_cross_attn_audio_scale_shift
av_cross_attn_audio_v2a_gate av_cross_attn_video_a2v_gate av_cross_attn_video_scale_shift av_modulation beta_proj
c_embedder c_fc c_proj cap_embedder caption_embedder caption_norm caption_proj caption_projection class_embedder
clip_img_mapper clip_mapper clip_txt_mapper clip_txt_pooled_mapper cond_seq_linear cond_type_embed condition_embedder
context_block context_embedder context_embedder_norm context_mlp context_refiner controlnet_cond_embedding
controlnet_down_blocks controlnet_mid_block conv1_local conv_depth conv_in conv_inverted conv_k conv_k_cam
conv_norm_out conv_out conv_point conv_shortcut conv_skip conv_temp cross_attention cross_attn cross_attn_norm
cross_attn_norm1 cross_attn_norm2 delta_embedder depth_conv distilled_guidance_layer double_blocks
double_stream_blocks double_stream_modulation_img double_stream_modulation_txt down_blocks down_downscalers down_proj
down_sample early_stream_modulations effnet_mapper emb_layers embed_image_indicator embed_tokens embedding_table
encoder_hid_proj encoder_proj face_adapter face_encoder far_patch_embedding feed_forward ff_context ff_i ff_t ffn_norm
ffn_norm1 ffn_norm2 final_layer final_layer_norm final_linear final_norm gate_layer gate_proj glyph_projector
group_norm guidance_embedder guidance_in image_cond image_embedder image_projector img_attn img_emb img_in img_mlp
img_mod img_qkv_proj in_layer in_layers in_norm in_proj individual_token_refiner init_x_linear input_blocks
input_embedder input_layernorm input_proj inverted_conv joint_blocks joint_transformer_blocks k_img k_norm k_norm_cam
k_proj k_proj_cam key_norm kv_linear kv_mapper label_emb language_model layer_norm layer_norm1 layer_norm2
layerwise_blocks linear_1 linear_2 linear_3 linear_fc2 linear_in linear_out llm_adapter llm_cond_norm llm_cond_proj
lm_head ln_k ln_q mapper_crp mapper_sca mid_block middle_block mlp_in mlp_out mode_blocks motion_encoder
motion_network noise_refiner norm1_context norm_added_k norm_added_q norm_final norm_in norm_k norm_k_img norm_out
norm_q o_proj out_layer out_layers out_norm out_proj out_proj_cam out_projection output_blocks output_gate output_proj
patch_embed patch_embedding patchify_proj patch_long patch_mid patch_short pixels_mapper plucker_embedder plucker_proj
point_conv pooled_text_embeddings pos_embed pose_patch_embedding position_embedding post_attention_layernorm
post_feedforward_layernorm post_quant_conv pre_feedforward_layernorm prior_projector prior_token_embedding proj_in
proj_mlp proj_out projection_linear projection_norm q_linear q_norm q_norm_cam q_proj q_proj_cam quant_conv query_norm
raymap_embedder refiner_blocks register_tokens relative_attention_bias res_blocks resnet_blocks resnets_in resnets_out
resolution_embedder scale_shift_table self_attention self_attn self_attn_proj self_attn_qkv seq_mapper shared_expert
shared_experts shortcut_down_sample shortcut_projection shortcut_up_sample single_blocks single_stream_blocks
single_stream_modulation single_stream_modulations single_transformer_blocks skip_connection t_block t_conv t_embedder
t_embedding text_embedder text_embedding text_embeddings text_fusion text_model text_modulation text_norm text_proj
text_projection text_transformer_blocks time_caption_embed time_condition_embed time_emb_proj time_embed time_embedder
time_embedding time_embeddings time_guidance_embed time_in time_mod_proj time_proj time_projection time_step_proj
time_text_embed timestep_embedder to_add_out to_gate to_k to_k_t to_key to_kv to_out to_out_t to_q to_q_t
to_qkv_mlp_proj to_query to_v to_v_t to_value token_embedding token_refiner transformer_blocks txt_attn txt_in
txt_kv_proj txt_mlp txt_mod txt_mode_blocks txt_norm up_blocks up_proj up_sample up_upscalers v_img v_proj v_proj_cam
va_cross_attention va_modulation vace_blocks vace_patch_embedding vector_in video_dec_block
video_pooled_text_embeddings video_text_embeddings video_text_transformer_blocks video_time_embeddings
video_to_audio_attn visual_embeddings visual_modulation visual_transformer_blocks wi_0 wi_1 x_block x_embedder
x_embedders y_embedder y_proj
"""
_WORDS = frozenset(_TEXT.split())
_FAMILIES: tuple[tuple[re.Pattern[str], frozenset[str]], ...] = (
    (
        re.compile(r"_(img|txt)_mod_linear$|_individual_token_refiner_|_attn_(img|txt)_attn_qkv$"),
        frozenset(f"{side}_attn_{part}" for side in ("img", "txt") for part in ("qkv", "proj", "q_norm", "k_norm")),
    ),
)
"""Words of one family of models that another one has as two, with what tells the family by its names: HunyuanVideo's
`img_attn_qkv` is Flux's `img_attn.qkv`."""


def words_for(names: Iterable[str]) -> frozenset[str]:
    """The words with underscores for a file with these names."""
    names = list(names)
    more = (words for pattern, words in _FAMILIES if any(pattern.search(name) for name in names))
    return _WORDS.union(*more)


def dotted(name: str, words: frozenset[str]) -> str:
    """A name with dots for the underscores that are not part of a word; the longest word from the left counts.

    Putting underscores for the dots gives `name` again.

    Example:
        >>> dotted("down_blocks_0_attentions_1_proj_in", words_for([]))
        'down_blocks.0.attentions.1.proj_in'
    """
    pieces = name.split("_")
    found: list[str] = []
    while pieces:
        length = next((n for n in range(min(len(pieces), _longest(words)), 1, -1) if "_".join(pieces[:n]) in words), 1)
        found.append("_".join(pieces[:length]))
        pieces = pieces[length:]
    return ".".join(found)


@cache
def _longest(words: frozenset[str]) -> int:
    """The most pieces of a word."""
    return max(word.count("_") for word in words) + 1

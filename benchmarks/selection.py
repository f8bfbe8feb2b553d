"""What `wsol bench` runs. Nothing is imported here: the command line reads this before what takes seconds."""

# By the operator's name (or what is measured of whole networks): modules, or functions of them, as pytest names them.
BENCHMARKS = {
    "extract_boxes": [
        "bench_boxes.py::test_extract_boxes",
        "bench_boxes.py::test_extract_boxes_of_any_size",
    ],
    "best_box_iou": ["bench_boxes.py::test_best_box_iou"],
    "box_iou": ["bench_boxes.py::test_box_iou", "bench_boxes.py::test_box_iou_beside_torchvision"],
    "class_attention": ["bench_class_attention.py"],
    "masked_reattention": ["bench_masked_reattention.py"],
    "adaptive_token_mask": ["bench_token_mask.py::test_adaptive_token_mask"],
    "masked_softmax": [
        "bench_token_mask.py::test_masked_softmax",
        "bench_token_mask.py::test_masked_softmax_and_gradient",
    ],
    "spatial_gate": ["bench_spatial_gate.py"],
    "spatial_diffusion": ["bench_spatial_diffusion.py"],
    "normalized_cut": ["bench_normalized_cut.py"],
    "label_components": ["bench_components.py"],
    "slic": ["bench_slic.py"],
    "segment_mean": ["bench_segments.py::test_segment_mean"],
    "segment_mode": [
        "bench_segments.py::test_segment_mode",
        "bench_segments.py::test_segment_mode_against_a_loop",
    ],
    "attention_rows": ["bench_attention_rows.py"],
    "deep_clustering": ["bench_deep_clustering.py"],
    "training_step": ["bench_training_step.py"],
}

# The cases that stand for an operator: some seconds each on two cores, where --full takes an hour and more.
QUICK = {
    "extract_boxes": [
        "bench_boxes.py::test_extract_boxes_of_any_size[1-224-1-largest]",
        "bench_boxes.py::test_extract_boxes_of_any_size[1-224-100-largest]",
    ],
    "best_box_iou": ["bench_boxes.py::test_best_box_iou[all_threads-100-largest]"],
    "box_iou": [
        "bench_boxes.py::test_box_iou",
        "bench_boxes.py::test_box_iou_beside_torchvision[100-100-dtype0]",
    ],
    "class_attention": [
        "bench_class_attention.py::test_forward_and_backward[577]",
        "bench_class_attention.py::test_forward_and_backward_against_the_row_alone[fused qkv-(8, 6, 197, 64)]",
    ],
    "masked_reattention": [
        f"bench_masked_reattention.py::test_masked_reattention[float32-{rival}-8-197-0.5-forward_and_backward]"
        for rival in ("published->= 2x", "fused->= 1x")
    ],
    "adaptive_token_mask": ["bench_token_mask.py::test_adaptive_token_mask[128-196]"],
    "masked_softmax": ["bench_token_mask.py::test_masked_softmax_and_gradient[128-196]"],
    "spatial_gate": [
        "bench_spatial_gate.py::test_forward_and_backward[577-published_gate]",
        "bench_spatial_gate.py::test_forward_and_backward[577-row_alone]",
    ],
    "spatial_diffusion": [
        "bench_spatial_diffusion.py::test_against_newton_schulz[forward_and_backward-14-16-15-4]"
    ],
    "normalized_cut": [
        "bench_normalized_cut.py::test_against_dense_solvers[all threads-scipy_eigh-28-9]",
        "bench_normalized_cut.py::test_against_dense_solvers[all threads-scipy_eigsh-28-9]",
    ],
    "label_components": [
        "bench_components.py::test_one_large_mask[8-smooth]",
        "bench_components.py::test_beside_cc3d[smooth]",
        "bench_components.py::test_beside_kornia[connected_components_union_find]",
    ],
    "slic": [
        "bench_slic.py::test_one_image_beside_scikit_image[all_threads-512]",
        "bench_slic.py::test_one_image_beside_fast_slic[all_threads-fast-slic-512]",
    ],
    "segment_mean": [
        "bench_segments.py::test_segment_mean[scattered_mean-forward_and_backward-16-3-224-200]"
    ],
    "segment_mode": ["bench_segments.py::test_segment_mode[16-224-200]"],
}

# What benchmarks are measured beside, or draw with, that the package itself does not need: by the beginning of their
# names, the module and the package that brings it.
RIVALS = {
    "bench_boxes.py": ("cv2", "opencv-python-headless"),
    "bench_components.py": ("cv2", "opencv-python-headless"),
    "bench_components.py::test_beside_cc3d": ("cc3d", "connected-components-3d"),
    "bench_components.py::test_beside_kornia": ("kornia", "kornia"),
    "bench_normalized_cut.py": ("scipy", "scipy"),
    "bench_slic.py": ("skimage", "scikit-image"),
    "bench_slic.py::test_one_image_beside_fast_slic": ("fast_slic", "fast-slic"),
    "bench_slic.py::test_batch_beside_fast_slic": ("fast_slic", "fast-slic"),
}

"""What metrics and cases are called where people read them: in tables, on axes, in sentences."""

from __future__ import annotations

METRICS = {
    "auroc": "AUROC", "auc": "AUC", "ap": "average precision", "auprc": "AUPRC", "f1": "F1", "macro_f1": "macro F1",
    "mcc": "MCC", "iou": "IoU", "miou": "mIoU", "dice": "Dice", "mean_dice": "mean Dice", "nsd": "NSD", "hd95": "HD95",
    "hd95_um": "HD95 (µm)", "hd95_pixels": "HD95 (pixels)", "mse": "MSE", "mae": "MAE", "ssim": "SSIM", "psnr": "PSNR",
    "ece": "ECE", "elbo": "ELBO", "kl": "KL", "fpr": "FPR", "tpr": "TPR", "ppv": "PPV", "npv": "NPV",
}  # fmt: skip


def metric_name(name: str) -> str:
    """``balanced_accuracy`` as ``balanced accuracy``, acronyms in capitals."""
    words = str(name).split("_")
    return METRICS.get(str(name)) or " ".join(METRICS.get(word, word) for word in words)


def cases_of(number: int, unit: str) -> str:
    """``32 patients``, ``1 lesion``, ``427 patches``; thin spaces between thousands from ten thousand on."""
    plural = "" if number == 1 else "es" if unit.endswith(("ch", "s", "x")) else "s"
    shown = f"{number:,}".replace(",", "\u202f") if number >= 10_000 else str(number)
    return f"{shown} {unit}{plural}"

"""A window that shows pictures one after the other. It needs a screen and Python's tkinter, nothing else."""

from __future__ import annotations

from types import TracebackType

import cv2

from ebapose.errors import EbaposeError
from ebapose.structures import UInt8Array

_SCREEN_SHARE = 0.9


class Window:
    """Shows RGB pictures, shrunk to the screen where they are larger; closed by q, Escape or its button.

    Raises:
        EbaposeError: there is no screen, or tkinter is not installed.
    """

    def __init__(self, title: str) -> None:
        try:
            import tkinter as tk
        except ImportError:
            raise EbaposeError("no window: this Python comes without tkinter") from None
        try:
            self._root = tk.Tk()
        except tk.TclError as error:
            raise EbaposeError(f"no window: there is no screen here ({error})") from None
        self._photo_of, self._gone = tk.PhotoImage, tk.TclError
        self._root.title(title)
        self._label = tk.Label(self._root, borderwidth=0)
        self._label.pack()
        self._open = True
        self._root.protocol("WM_DELETE_WINDOW", self._end)
        for key in ("q", "<Escape>"):
            self._root.bind(key, lambda event: self._end())

    def _end(self) -> None:
        self._open = False

    def show(self, image: UInt8Array) -> bool:
        """Show an RGB uint8 (H, W, 3) picture; False when the window was closed."""
        if not self._open:
            return False
        try:
            height, width = image.shape[:2]
            screen = self._root.winfo_screenwidth() / width, self._root.winfo_screenheight() / height
            factor = min(1.0, _SCREEN_SHARE * min(screen))
            if factor < 1:
                size_wh = max(1, round(width * factor)), max(1, round(height * factor))
                image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA).astype("uint8", copy=False)
            head = b"P6 %d %d 255\n" % (image.shape[1], image.shape[0])
            self._photo = self._photo_of(data=head + image.tobytes(), format="PPM")  # tkinter holds no reference
            self._label.configure(image=self._photo)
            self._root.update()
        except self._gone:
            self._open = False
        return self._open

    def close(self) -> None:
        """Close the window."""
        self._open = False
        try:
            self._root.destroy()
        except self._gone:
            return

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

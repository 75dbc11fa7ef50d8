"""People in real footage: body detection, landmarks and outlines by the pose network that mediapipe's wheel ships."""

"""Speech from a reply that is still being written: its sentences, and what a voice says of each."""

from shared_utils.speech.speech_text import SpeechText
from shared_utils.speech.splitter import SentenceSplitter

__all__ = ["SentenceSplitter", "SpeechText"]

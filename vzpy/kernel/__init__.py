"""The kernel's words: thin wrappers with man-page names. Nothing of OpenVZ, no policy, no logging.

Every wrapper raises OSError with errno (and path where there is one); none retries or guesses."""

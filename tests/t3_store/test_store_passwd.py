"""The password files of s3fs, and every way to get them wrong."""

import pytest

from fuse_s3_worker.store.passwd import PasswdFileError, credentials_for
from fuse_s3_worker.store.sigv4 import Credentials

DEFAULT = Credentials("AKDEFAULT", "SECRETdefault/+=")
OWN = Credentials("AKOWN", "SECRETown")

RIGHT = {
    "one key": ("AKDEFAULT:SECRETdefault/+=", DEFAULT),
    "with the newline that echo leaves": ("AKDEFAULT:SECRETdefault/+=\n", DEFAULT),
    "made on Windows": ("AKDEFAULT:SECRETdefault/+=\r\n", DEFAULT),
    "comments and empty lines": ("# keys\n\n  \nAKDEFAULT:SECRETdefault/+=\n#end", DEFAULT),
    "blanks around": ("  AKDEFAULT:SECRETdefault/+=\t\n", DEFAULT),
    "a key for this bucket": ("bucket:AKOWN:SECRETown", OWN),
    "its own key goes first": ("AKDEFAULT:SECRETdefault/+=\nbucket:AKOWN:SECRETown", OWN),
    "whatever the order": ("bucket:AKOWN:SECRETown\nAKDEFAULT:SECRETdefault/+=", OWN),
    "another bucket's key": ("other:AKOWN:SECRETown\nAKDEFAULT:SECRETdefault/+=", DEFAULT),
    "pairs": ("AWSAccessKeyId=AKDEFAULT\nAWSSecretKey=SECRETdefault/+=\n", DEFAULT),
    "pairs the other way": ("AWSSecretKey=SECRETdefault/+=\nAWSAccessKeyId=AKDEFAULT\n", DEFAULT),
    "a key for every bucket before pairs": (
        "AWSAccessKeyId=AKOWN\nAWSSecretKey=SECRETown\nAKDEFAULT:SECRETdefault/+=\n",
        DEFAULT,
    ),
    "pairs and this bucket's key": (
        "AWSAccessKeyId=AKDEFAULT\nAWSSecretKey=SECRETdefault/+=\nbucket:AKOWN:SECRETown",
        OWN,
    ),
}


@pytest.mark.parametrize(("text", "expected"), RIGHT.values(), ids=RIGHT.keys())
def test_the_key_for_a_bucket(text: str, expected: Credentials) -> None:
    assert credentials_for("bucket", text, "/p") == expected


# Text, the start of the message. Every secret in them begins with SECRET.
WRONG = {
    "nothing": ("", "/p: no key for bucket bucket, and none for every bucket"),
    "only comments": ("# AKX:SECRETx\n", "/p: no key for bucket bucket"),
    "only another bucket's": ("other:AKX:SECRETx\n", "/p: no key for bucket bucket"),
    "a secret alone": ("SECRETx\n", "/p, line 1: neither ACCESS:SECRET nor BUCKET:ACCESS:SECRET"),
    "four fields": ("a:b:c:SECRETx\n", "/p, line 1: neither"),
    "no bucket": ("#\n:AKX:SECRETx\n", "/p, line 2: neither"),
    "no access key": (":SECRETx\n", "/p, line 1: an empty key"),
    "no secret key": ("\n\nAKX:\n", "/p, line 3: an empty key"),
    "no secret key of a bucket": ("bucket:AKX:\n", "/p, line 1: an empty key"),
    "a blank inside": ("AKX: SECRETx\n", "/p, line 1: spaces and sections have no place"),
    "a tab inside": ("AKX:\tSECRETx\n", "/p, line 1: spaces"),
    "a file of the AWS CLI": (
        "[default]\naws_access_key_id = AKX\naws_secret_access_key = SECRETx\n",
        "/p, line 1: spaces and sections",
    ),
    "the AWS CLI without a section": ("aws_secret_access_key=SECRETx\n", "/p, line 1: neither"),
    "twice": ("AKX:SECRETx\n#\nAKY:SECRETy\n", "/p, line 3: a second key for every bucket"),
    "twice a bucket": ("b:AKX:SECRETx\nb:AKY:SECRETy\n", "/p, line 2: a second key for b"),
    "half a pair": ("AWSSecretKey=SECRETx\n", "/p: AWSAccessKeyId= and AWSSecretKey= need each"),
    "an empty half": ("AWSAccessKeyId=\nAWSSecretKey=SECRETx\n", "/p"),
    "an empty other half": ("AWSAccessKeyId=AKX\nAWSSecretKey=\n", "/p"),
    "the other half of a pair": ("AWSAccessKeyId=AKX\n", "/p: AWSAccessKeyId= and"),
    "no text": ("\0\ufffdSECRETx\ufffd", "/p, line 1: neither"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_named_by_its_line_and_never_quoted(text: str, message: str) -> None:
    with pytest.raises(PasswdFileError) as caught:
        credentials_for("bucket", text, "/p")
    assert str(caught.value).startswith(message)
    assert "SECRET" not in str(caught.value).replace("ACCESS:SECRET", "")
    assert "AKX" not in str(caught.value)

"""What a refused call says."""

import botocore.exceptions
import pytest


def refused(code, call, *arguments, status=None, contains="", **options):
    """Makes the call and demands that it is refused with `code`; returns the error."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(*arguments, **options)
    error = caught.value.response
    said = f"{error['Error']} {error['ResponseMetadata']['HTTPStatusCode']}"
    assert error["Error"]["Code"] == code, said
    assert contains.lower() in error["Error"].get("Message", "").lower(), said
    if status:
        assert error["ResponseMetadata"]["HTTPStatusCode"] == status, said
    return error

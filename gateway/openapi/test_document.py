"""Holds an OpenAPI document against the standard, and its examples against its schemas."""

import json
import sys

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

document = json.load(open(sys.argv[1], encoding="utf-8"))
faults = [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()]

checked = 0
for path, item in document["paths"].items():
    for operation in item.values():
        media = operation.get("requestBody", {}).get("content", {})
        for kind, body in media.items():
            # References lead to the root of a document: the schema gets the components.
            schema = {**body["schema"], "components": document["components"]}
            Draft202012Validator.check_schema(schema)
            if "example" in body:
                checked += 1
                faults += [f"{path}, {kind}: {error.message}" for error in
                           Draft202012Validator(schema).iter_errors(body["example"])]

print(f"{len(document['paths'])} paths, {checked} examples")
if faults or checked == 0:
    sys.exit("\n".join(faults) or "no example was checked")

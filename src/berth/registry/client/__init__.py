"""The client of OCI distribution 1.1 and Docker's registry v2, in threads on the standard library's http.client."""

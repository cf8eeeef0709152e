"""The doctor: looks at all that Twofold needs here, and says how to mend what is not well."""

SELECT version FROM registry_version

//! Actions that belong to no domain: tags, regions, zones, account attributes.

use std::collections::BTreeSet;
use terroir_store::Txn;
use terroir_types::{AccountId, Error};

use crate::model::{StatementRecord, statement_key};
use crate::receipt::{Receipt, ReceiptReader};

/// Everything that was logged about a resource of the account, with the statements that it refers to. `since`: see
/// [`ReceiptReader::receipt`]. None if nothing is in the log about it.
pub fn receipt(
    txn: &Txn,
    reader: &ReceiptReader,
    account: AccountId,
    resource: &str,
    since: Option<u64>,
) -> Result<Option<Receipt>, Error> {
    let unreadable = |error: std::io::Error| {
        Error::unavailable("The receipts' log cannot be read.").with_internal(error.to_string())
    };
    let found = reader.receipt(resource, |entry| entry.account == account, since).map_err(unreadable)?;
    let Some((mut receipt, entries)) = found else { return Ok(None) };
    let places = entries.iter().flat_map(|entry| std::iter::once(&entry.place).chain(&entry.from));
    let hashes: BTreeSet<&String> =
        places.flat_map(|place| [&place.operator_statement, &place.site_statement]).collect();
    for hash in hashes.into_iter().filter(|hash| !hash.is_empty()) {
        receipt
            .statements
            .extend(txn.peek::<StatementRecord>(&statement_key(hash))?.map(|record| record.signed.clone()));
    }
    Ok(Some(receipt))
}

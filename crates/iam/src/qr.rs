//! A QR code as a PNG, which `CreateVirtualMFADevice` answers with.

use crc_fast::{CrcAlgorithm, checksum};
use qrcodegen::{QrCode, QrCodeEcc};

/// Pixels of one module, and modules of the quiet zone around the code (ISO/IEC 18004 wants four).
const SCALE: usize = 4;
const QUIET: usize = 4;

/// `None`: the text is too long for a QR code.
pub(crate) fn png(text: &str) -> Option<Vec<u8>> {
    let code = QrCode::encode_text(text, QrCodeEcc::Low).ok()?;
    let modules = usize::try_from(code.size()).ok()?;
    let side = (modules + 2 * QUIET) * SCALE;
    let dark = |at: usize| -> Option<i32> { i32::try_from(at / SCALE).ok()?.checked_sub(4) };
    let mut rows = Vec::with_capacity(side * (1 + side.div_ceil(8)));
    for y in 0..side {
        // Each row begins with its filter: none.
        rows.push(0);
        for byte in 0..side.div_ceil(8) {
            let light = (0..8).filter(|bit| {
                let module = dark(byte * 8 + bit).zip(dark(y));
                module.is_none_or(|(x, y)| !code.get_module(x, y))
            });
            rows.push(light.fold(0, |bits, bit| bits | 0x80 >> bit));
        }
    }
    let side = u32::try_from(side).ok()?.to_be_bytes();
    // One bit per pixel, greyscale, deflate, adaptive filtering, not interlaced.
    let header = [&side[..], &side, &[1, 0, 0, 0, 0]].concat();
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", header), (b"IDAT", zlib(&rows)), (b"IEND", Vec::new())] {
        let tagged = [&kind[..], &data].concat();
        let crc = u32::try_from(checksum(CrcAlgorithm::Crc32IsoHdlc, &tagged)).ok()?;
        out.extend(u32::try_from(data.len()).ok()?.to_be_bytes());
        out.extend(tagged);
        out.extend(crc.to_be_bytes());
    }
    Some(out)
}

/// RFC 1950 and 1951 with stored blocks: a few kilobytes are not worth a compressor.
fn zlib(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let mut blocks = data.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        // Blocks have at most 65,535 bytes.
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(u8::from(blocks.peek().is_none()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
    let (a, b) = data.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    out.extend((b << 16 | a).to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published check values: adler32("Wikipedia"), crc32("123456789").
    #[test]
    fn form_of_a_png() {
        assert_eq!(zlib(b"Wikipedia")[16..], 0x11e6_0398_u32.to_be_bytes());
        assert_eq!(checksum(CrcAlgorithm::Crc32IsoHdlc, b"123456789"), 0xcbf4_3926);
        let png = png("otpauth://totp/x?secret=ABCD").unwrap();
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        assert_eq!(&png[12..16], b"IHDR");
        assert_eq!(&png[png.len() - 8..png.len() - 4], b"IEND");
        assert!(super::png(&"x".repeat(8000)).is_none());
    }
}

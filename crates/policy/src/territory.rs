use std::collections::BTreeSet;

/// ISO 3166-1 alpha-2, the officially assigned codes.
const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR \
    BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET \
    FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ \
    IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML \
    MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS \
    PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL \
    TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

/// Members since 1 February 2020.
const EU: &str = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK";
const EEA_BESIDE_EU: &str = "IS LI NO";

/// Groups that a policy may name, with what they stand for besides themselves. A larger one comes first.
const GROUPS: [(&str, [&str; 2]); 2] = [("EEA", [EU, EEA_BESIDE_EU]), ("EU", [EU, ""])];

/// Whether `code` is an officially assigned ISO 3166-1 alpha-2 code.
pub fn is_country(code: &str) -> bool {
    code.len() == 2 && all_countries().any(|country| country == code)
}

/// Whether `code` is a country or a group of countries (`EU`, `EEA`).
pub fn is_territory(code: &str) -> bool {
    is_country(code) || GROUPS.iter().any(|(group, _)| *group == code)
}

pub(crate) fn all_countries() -> impl Iterator<Item = &'static str> {
    COUNTRIES.split(' ').filter(|code| !code.is_empty())
}

fn members(parts: &'static [&'static str; 2]) -> impl Iterator<Item = &'static str> {
    parts.iter().flat_map(|part| part.split(' ')).filter(|code| !code.is_empty())
}

/// The codes with the members of every group among them; the groups stay, as law of their own.
pub(crate) fn expand(codes: &BTreeSet<String>) -> BTreeSet<String> {
    let mut out = codes.clone();
    for (group, parts) in &GROUPS {
        if codes.contains(*group) {
            out.extend(members(parts).map(str::to_owned));
        }
    }
    if codes.contains("EEA") {
        out.insert("EU".to_owned());
    }
    out
}

/// The shortest codes that [`Policy::parse`](crate::Policy::parse) turns into the same set; for people to read.
pub fn collapse(codes: &BTreeSet<String>) -> BTreeSet<String> {
    let mut out = codes.clone();
    for (group, parts) in &GROUPS {
        if out.contains(*group) && members(parts).all(|code| out.contains(code)) {
            out.retain(|code| !members(parts).any(|member| member == code));
            if *group == "EEA" {
                out.remove("EU");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> BTreeSet<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        assert_eq!(all_countries().count(), 249);
        assert_eq!(members(&GROUPS[1].1).count(), 27);
        assert!(members(&GROUPS[0].1).all(is_country));
        for (code, country, territory) in
            [("FR", true, true), ("EU", false, true), ("UK", false, false), ("ZZ", false, false), ("fr", false, false)]
        {
            assert_eq!((is_country(code), is_territory(code)), (country, territory), "{code}");
        }
    }

    #[test]
    fn groups_unfold_and_fold_again() {
        assert_eq!(expand(&set("EU")).len(), 28);
        assert_eq!(expand(&set("EEA")).len(), 32);
        for codes in ["EU", "EEA", "EU US", "FR US", "EEA CH"] {
            assert_eq!(collapse(&expand(&set(codes))), set(codes), "{codes}");
        }
    }
}

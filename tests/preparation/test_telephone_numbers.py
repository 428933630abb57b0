"""Telephone numbers are found in the forms and after the words of many languages, and other numbers are kept."""

import pytest

from hf_llm.preparation.anonymization import Anonymizer

NUMBERS = [
    ("联系方式：{} 或 {}", "138 1234 5678", "138-1234-5678"),
    ("电话：{}，请致电{}", "０１０－６２３４５６７８", "400-820-8820"),
    ("携帯 {}、お問い合わせ：{}まで", "０９０－１２３４－５６７８", "0120-123-456"),
    ("전화번호는 {}입니다, 휴대폰 {}", "010-1234-5678", "01012345678"),
    ("тел. {} или {}", "8 912 345 67 89", "8 (912) 345-67-89"),
    ("мой номер телефона {}, звоните {}", "89123456789", "495 123-45-67"),
    ("моб. {}, телефон для связи: {}", "0671234567", "+7 (495) 123-45-67"),
    ("هاتف {} أو جوال: {}", "0501234567", "٠٥٥ ١٢٣ ٤٥٦٧"),
    ("شماره تماس {}، تلفن: {}", "۰۲۱-۱۲۳۴۵۶۷۸", "۰۹۱۲۳۴۵۶۷۸۹"),
    ("טלפון: {}, בנייד {}", "054-1234567", "0541234567"),
    ("फ़ोन: {}, मोबाइल नंबर {} है", "९८७६५ ४३२१०", "98765 43210"),
    ("ফোন: {}, মোবাইল {}", "০১৭১২৩৪৫৬৭৮", "01712345678"),
    ("โทร. {} เบอร์โทรศัพท์ {}", "081-234-5678", "๐๘๑ ๒๓๔ ๕๖๗๘"),
    ("Telefon: {}, cep tel: {}", "0532 123 45 67", "05321234567"),
    ("τηλ. {}, κινητό: {}", "210 1234567", "6912345678"),
    ("tel. kom. {}, zadzwoń pod numer {}", "601 234 567", "601234567"),
    ("telefon: {}, volejte {}", "601 123 456", "777 123 456"),
    ("Llámame al {}, móvil {}", "612 345 678", "612345678"),
    ("Ligue para {}, telemóvel: {}", "(11) 91234-5678", "912 345 678"),
    ("cellulare {}, chiamami al {}", "333 1234567", "3331234567"),
    ("Tél. : {}, appelez le {}", "01.42.68.53.00", "0612345678"),
    ("Rufen Sie uns an: {}, Handy {}", "030 1234567", "0171/1234567"),
    ("bel ons, telefoonnummer {}, mobiel {}", "020 123 4567", "06-12345678"),
    ("mobilnr: {}, telefon {}", "070-1234567", "070-123 45 67"),
    ("puh. {}, tlf. {}", "040 1234567", "22 12 34 56"),
    ("Điện thoại: {}, SĐT {}", "0912 345 678", "0912345678"),
    ("telepon {}, hubungi {}", "0812-3456-7890", "081234567890"),
    ("Ruf mich an unter {}, Fax: {}", "0171 / 123 45 67", "030 – 901 820 15"),
    ("Joignez-nous au {}, portable {}", "0 800 123 456", "06 12 34 56 78"),
    ("Bel mij op {}, ring til mig på {}", "06-12345678", "20 12 34 56"),
    ("тел.{}, утас {}", "8(495)123-45-67", "9911 2345"),
    ("TEL{}　FAX{}", "0120-123-456", "03-1234-5678"),
    ("Cel: {}, simu {}", "55 1234 5678", "0712 345 678"),
    ("மொபைல் எண் {}, (beni ara: {})", "98765 43210", "0 (532) 123 45 67"),
    ("phone number ({}), 电话（{}）", "+86 138 1234 5678", "+86 138 1234 5678"),
    ("WhatsApp {}; {}", "+55 11 91234-5678", "0044 20 7946 0958"),
]
OTHER_NUMBERS = [
    "Opening hours: Mon-Fri 0900-1700, Sat 0930-1230, 2200–0600",
    "U+0041-005A, the code points 0041-0060 and 00E0-00FF",
    "Phys. Rev. Lett. (1990) 123-134, Jones (2003) 123-145, pp. 1234-1245, 1023–1034",
    "ISSN 0378-5955, call for papers: ISSN 2049-3630, ISBN 978 0 306 40615 7, doi:10.1016/0771-050X(80)90013-3",
    "Week numbers 01 02 03 04 05 are winter, weeks 10 11 12 13 14",
    "02 00 00 00 00 12 34 56 78 90\n0041 0042 0043 0044",
    '<path d="M 212.5 15.2 C 100-200 300-400 120 330"/> <polyline points="100,200 300,400 500,600"/>',
    "-122.4194155,37.7749295 and 52.520008, 13.404954; +0.012568, +0.027149, +1234567 lines",
    "recursive calls 3628800, error messages\n 20507  9.0.0886, virtual text\n 16714, message 1234567",
    "used 13912345678 bytes, free=15482871808, total 17179869184 bytes, format('15108695077')",
    '{"total_memory": "17179869184", "physical_space_size": 1260160}',
    "12345678-1234-1234-1234-123456789012, 20240115123045, 2020-12-08  16:24",
    "tel = np.array([1234567, 2345678]), mobile-1234567.css, DFARS 252.227-7013",
    "mobile 100 000 users; office 365 2019 2021, Ligue 1 2023-2024; Office 2016 2019 2021; Mobile 2.0.1.3",
    "24000/1001 fps, phrase:508 533 534 581",
]


@pytest.mark.parametrize(("text", "first", "second"), NUMBERS)
def test_words_of_the_languages_make_any_form_a_telephone_number(text, first, second):
    """Also digits of other scripts, and words that follow each other without a space."""
    assert Anonymizer()(text.format(first, second)) == (text.format("<PHONE>", "<PHONE>"), ["PHONE", "PHONE"])


@pytest.mark.parametrize("text", OTHER_NUMBERS)
def test_other_numbers_are_kept(text):
    """Hours, pages, code points, dumps, coordinates, sizes, serial numbers."""
    assert Anonymizer()(text) == (text, [])


def test_spellings_of_a_number_have_the_same_pseudonym():
    """With the country code, with the national prefix after a word of that country, in digits of another script."""
    anonymizer = Anonymizer(key=bytes(16))
    for spellings in (
        ["+49 (0)30 901820", "+49-30-901820", "0049 30 901820"],
        ["тел. +7 912 345-67-89", "тел. 8 (912) 345-67-89"],
        ["هاتف ٠٥٠١٢٣٤٥٦٧", "هاتف 050-123-4567"],
        ["Call (415) 555-2671", "Call +1 415 555 2671", "Call 1-415-555-2671"],
        ["电话：１３８ １２３４ ５６７８", "电话：+86 138-1234-5678"],
    ):
        assert len({anonymizer(text)[0].split("<")[1] for text in spellings}) == 1, spellings
    assert anonymizer("tel. 030 901820")[0] != anonymizer("tel. 030 901821")[0]

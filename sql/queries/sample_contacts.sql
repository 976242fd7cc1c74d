-- name: sample_lock
-- Block other writers of contacts until the transaction ends: ids are assigned here, not by the sequence.
LOCK TABLE contacts IN SHARE ROW EXCLUSIVE MODE;

-- name: sample_first_id
-- The first id above all contacts and above the current value of the sequence.
SELECT greatest(coalesce(max(id), 0) + 1, nextval(pg_get_serial_sequence('contacts', 'id'))) FROM contacts;

-- name: sample_contacts
-- Add $2 contacts to Space $3 with ids from $1 on, created between $4 and $5 in id order; $6 is the seed. Every value is
-- derived from a hash of id and seed, so the same call creates the same rows. Every fiftieth contact is merged into the
-- previous one. Addresses use domains reserved by RFC 2606, phone numbers use ranges reserved for fiction.
WITH cultures (number, family_first, glue, given, given_latin, family, family_latin, cities) AS (
  VALUES
    (0, false, ' ',
     '{Olivia,Noah,Aoife,Liam,Grace,Seán}'::text[], '{olivia,noah,aoife,liam,grace,sean}'::text[],
     '{O''Brien,Smith,Taylor-Jones,MacDonald,D''Arcy,Walker}'::text[],
     '{obrien,smith,taylor-jones,macdonald,darcy,walker}'::text[], '{Leeds,Toronto,Galway}'::text[]),
    (1, false, ' ',
     '{María José,José,Lucía,Íñigo,Sofía,Andrés}', '{mariajose,jose,lucia,inigo,sofia,andres}',
     '{Muñoz,Núñez,García,Peña,Ibáñez,Gómez}', '{munoz,nunez,garcia,pena,ibanez,gomez}', '{Bogotá,Málaga,Córdoba}'),
    (2, false, ' ',
     '{Jürgen,Käthe,Björn,Åse,Søren,Zoë}', '{juergen,kaethe,bjorn,aase,soren,zoe}',
     '{Müller,Groß,Weiß,Østergård,Åkesson,Jäger}', '{mueller,gross,weiss,ostergaard,akesson,jaeger}',
     '{Köln,Zürich,Malmö}'),
    (3, false, ' ',
     '{Chloé,François,Hélène,Loïc,Maëlle,Noël}', '{chloe,francois,helene,loic,maelle,noel}',
     '{Lefèvre,Dubois,Bélanger,Gagné,Besançon,Roy}', '{lefevre,dubois,belanger,gagne,besancon,roy}',
     '{Québec,Orléans,Genève}'),
    (4, false, ' ',
     '{Zofia,Łukasz,Małgorzata,Paweł,Żaneta,Michał}', '{zofia,lukasz,malgorzata,pawel,zaneta,michal}',
     '{Nowak,Wójcik,Mazur,Kaczmarek,Woźniak,Zając}', '{nowak,wojcik,mazur,kaczmarek,wozniak,zajac}',
     '{Kraków,Łódź,Gdańsk}'),
    (5, false, ' ',
     '{Elif,Mehmet,Zeynep,Can,Ayşe,Çağrı}', '{elif,mehmet,zeynep,can,ayse,cagri}',
     '{Yılmaz,Şahin,Öztürk,Çelik,Aydın,Güneş}', '{yilmaz,sahin,ozturk,celik,aydin,gunes}',
     '{İstanbul,İzmir,Eskişehir}'),
    (6, false, ' ',
     '{Ελένη,Γιώργος,Μαρία,Νίκος,Σοφία,Κώστας}', '{eleni,giorgos,maria,nikos,sofia,kostas}',
     '{Αλεξίου,Γεωργίου,Νικολάου,Βασιλείου,Ιωάννου,Χρήστου}',
     '{alexiou,georgiou,nikolaou,vasileiou,ioannou,christou}', '{Αθήνα,Πάτρα,Ηράκλειο}'),
    (7, false, ' ',
     '{Олена,Дмитро,Ольга,Іван,Марія,Сергій}', '{olena,dmytro,olha,ivan,mariia,serhii}',
     '{Шевченко,Коваленко,Бондаренко,Кравченко,Лисенко,Мороз}',
     '{shevchenko,kovalenko,bondarenko,kravchenko,lysenko,moroz}', '{Київ,Одеса,Харків}'),
    (8, false, ' ',
     '{ليلى,عمر,فاطمة,يوسف,نور,كريم}', '{layla,omar,fatima,yusuf,nour,karim}',
     '{حداد,منصور,العلي,خليل,ناصر,صالح}', '{haddad,mansour,alali,khalil,nasser,saleh}',
     '{القاهرة,عمّان,الدار البيضاء}'),
    (9, false, ' ',
     '{נועה,דוד,תמר,איתן,מאיה,אורי}', '{noa,david,tamar,eitan,maya,uri}',
     '{כהן,לוי,מזרחי,פרץ,ביטון,פרידמן}', '{cohen,levi,mizrahi,peretz,biton,friedman}', '{חיפה,תל אביב,ירושלים}'),
    (10, false, ' ',
     '{प्रिया,अर्जुन,अनन्या,रोहन,मीरा,विक्रम}', '{priya,arjun,ananya,rohan,meera,vikram}',
     '{शर्मा,पटेल,सिंह,गुप्ता,वर्मा,जोशी}', '{sharma,patel,singh,gupta,verma,joshi}', '{मुंबई,दिल्ली,पुणे}'),
    (11, false, ' ',
     '{สมชาย,มาลี,อนันต์,ศิริพร,ณัฐ,พลอย}', '{somchai,malee,anan,siriporn,nat,ploy}',
     '{แสงทอง,ศรีสุข,วงศ์ดี,บุญมา,ทองคำ,สุขใจ}', '{saengthong,srisuk,wongdee,boonma,thongkam,sukjai}',
     '{กรุงเทพฯ,เชียงใหม่,ภูเก็ต}'),
    (12, true, '',
     '{伟,芳,静怡,子轩,欣然,明}', '{wei,fang,jingyi,zixuan,xinran,ming}',
     '{王,李,张,刘,陈,杨}', '{wang,li,zhang,liu,chen,yang}', '{上海,成都,深圳}'),
    (13, true, ' ',
     '{陽菜,蓮,さくら,大翔,結衣,健}', '{hina,ren,sakura,hiroto,yui,ken}',
     '{佐藤,鈴木,高橋,田中,伊藤,渡辺}', '{sato,suzuki,takahashi,tanaka,ito,watanabe}', '{東京,大阪,札幌}'),
    (14, true, '',
     '{지우,서연,민준,하은,도윤,수아}', '{jiwoo,seoyeon,minjun,haeun,doyun,sua}',
     '{김,이,박,최,정,강}', '{kim,lee,park,choi,jung,kang}', '{서울,부산,대구}'),
    (15, true, ' ',
     '{Linh,Minh,Hương,Đức,Thảo,Tuấn}', '{linh,minh,huong,duc,thao,tuan}',
     '{Nguyễn,Trần,Lê,Phạm,Hoàng,Đặng}', '{nguyen,tran,le,pham,hoang,dang}', '{Hà Nội,Huế,Đà Nẵng}')
),
draws AS MATERIALIZED (
  SELECT position,
         $1::bigint + position AS id,
         hashint8extended($1::bigint + position, 4 * $6::bigint) & 9223372036854775807 AS who,
         hashint8extended($1::bigint + position, 4 * $6::bigint + 1) & 9223372036854775807 AS what
    FROM generate_series(0, $2::bigint - 1) AS position
)
INSERT INTO contacts (id, space_id, created_at, email, name, phone, location, merged_into)
SELECT d.id,
       $3::bigint,
       $4::timestamptz + ($5::timestamptz - $4::timestamptz) * ((d.position + (d.what >> 40) % 1000 / 1000.0) / $2::bigint),
       CASE WHEN d.what % 100 >= 2 THEN
         c.given_latin[1 + (d.who >> 8) % 6] || '.' || c.family_latin[1 + (d.who >> 16) % 6] || d.id || '@'
         || ('{example.com,example.org,example.net,mail.example}'::text[])[1 + (d.who >> 24) % 4] END,
       CASE WHEN (d.what >> 8) % 100 >= 3 THEN
         CASE WHEN c.family_first
              THEN c.family[1 + (d.who >> 16) % 6] || c.glue || c.given[1 + (d.who >> 8) % 6]
              ELSE c.given[1 + (d.who >> 8) % 6] || c.glue || c.family[1 + (d.who >> 16) % 6] END
         || CASE WHEN (d.who >> 32) % 40 = 0
                 THEN ' ' || ('{😀,🎉,👩‍💻,🏳️‍🌈,🇧🇷,❤️}'::text[])[1 + (d.who >> 40) % 6] ELSE '' END END,
       CASE WHEN (d.what >> 16) % 100 >= 30 THEN
         CASE (d.what >> 24) % 4
              WHEN 0 THEN '+1 ' || 201 + (d.who >> 48) % 700 || ' 555 01' || lpad(((d.who >> 36) % 100)::text, 2, '0')
              WHEN 1 THEN '+44 7700 900' || lpad(((d.who >> 36) % 1000)::text, 3, '0')
              WHEN 2 THEN '+33 1 99 00 ' || lpad(((d.who >> 36) % 100)::text, 2, '0') || ' '
                          || lpad(((d.who >> 44) % 100)::text, 2, '0')
              ELSE '+49 30 23125 ' || lpad(((d.who >> 36) % 1000)::text, 3, '0') END END,
       CASE WHEN (d.what >> 32) % 100 >= 20 THEN c.cities[1 + (d.who >> 28) % 3] END,
       CASE WHEN d.position % 50 = 49 THEN d.id - 1 END
  FROM draws d
  JOIN cultures c ON c.number = d.who % 16
 ORDER BY d.id;

-- name: sample_emails
-- Add the addresses of the $2 contacts from id $1 on, last seen between their creation and $3; $4 is the seed. Each has its
-- primary address and up to five more; those of a merged contact belong to its survivor.
INSERT INTO contact_emails (contact_id, email, last_seen_at)
SELECT coalesce(c.merged_into, c.id),
       CASE k WHEN 1 THEN c.email
              ELSE split_part(c.email, '@', 1) || ('{.work,.home,.old,.news,.shop}'::text[])[k - 1]
                   || ('{@example.com,@example.org,@mail.example,@office.example}'::text[])[1 + (d.draw >> 20) % 4] END,
       c.created_at + ($3::timestamptz - c.created_at) * (((d.draw >> (8 * k)) % 1000) / 1000.0)
  FROM contacts c
 CROSS JOIN LATERAL (
   SELECT hashint8extended(c.id, 4 * $4::bigint + 2) & 9223372036854775807 AS draw
 ) d
 CROSS JOIN LATERAL generate_series(
   1,
   CASE WHEN c.merged_into IS NOT NULL OR d.draw % 100 < 60 THEN 1
        WHEN d.draw % 100 < 88 THEN 2
        WHEN d.draw % 100 < 96 THEN 3
        WHEN d.draw % 100 < 98 THEN 4
        WHEN d.draw % 100 < 99 OR (c.id - $1::bigint) % 50 = 48 THEN 5
        ELSE 6 END
 ) AS k
 WHERE c.id >= $1::bigint AND c.id < $1::bigint + $2::bigint AND c.email IS NOT NULL;

-- name: sample_tokens
-- Add 0 to 12 comet tokens to each of the $2 contacts from id $1 on, last seen between their creation and $3; $4 is the
-- seed. Those of a merged contact belong to its survivor.
INSERT INTO comet_tokens (contact_id, token, last_seen_at)
SELECT coalesce(c.merged_into, c.id),
       lpad(to_hex(hashint8extended(c.id, 64 * $4::bigint + k)), 16, '0')
       || lpad(to_hex(hashint8extended(c.id, 64 * $4::bigint + 32 + k)), 16, '0'),
       c.created_at + ($3::timestamptz - c.created_at) * (((d.draw >> (4 * k)) % 1000) / 1000.0)
  FROM contacts c
 CROSS JOIN LATERAL (
   SELECT hashint8extended(c.id, 4 * $4::bigint + 3) & 9223372036854775807 AS draw
 ) d
 CROSS JOIN LATERAL generate_series(
   1,
   CASE WHEN c.merged_into IS NOT NULL THEN 2
        WHEN d.draw % 100 < 10 THEN 0
        WHEN d.draw % 100 < 33 THEN 1
        WHEN d.draw % 100 < 53 THEN 2
        WHEN d.draw % 100 < 69 THEN 3
        WHEN d.draw % 100 < 80 THEN 4
        WHEN d.draw % 100 < 87 THEN 5
        WHEN d.draw % 100 < 92 THEN 6
        WHEN d.draw % 100 < 96 THEN 8
        WHEN d.draw % 100 < 98 OR (c.id - $1::bigint) % 50 = 48 THEN 10
        ELSE 12 END
 ) AS k
 WHERE c.id >= $1::bigint AND c.id < $1::bigint + $2::bigint;

-- name: sample_last_id
-- Move the sequence past the last assigned id.
SELECT setval(pg_get_serial_sequence('contacts', 'id'), $1::bigint);

-- name: sample_vacuum
-- Update the planner's statistics, and the visibility map that index-only scans need.
VACUUM (ANALYZE) contacts, contact_emails, comet_tokens;

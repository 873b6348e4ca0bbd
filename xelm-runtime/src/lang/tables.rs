//! What the lookup of language tags knows of languages. Codes are those of the IANA Language Subtag
//! Registry; which member stands for a macrolanguage, and scripts, are those of Unicode's CLDR 48
//! (`aliases`, `likelySubtags`).

/// What codes stand for, one string for each first letter: `iw=he` is the code of today for a former
/// or three-letter one, `cmn~zh` the macrolanguage that a language stands for in text, `yue<zh` the one
/// that it is another member of.
pub(super) const CODES: [&str; 26] = [
    "aae<sq aam=aas aao<ar aar=aa aat<sq abh<ar abk=ab abv<ar acm<ar acq<ar acw<ar acx<ar acy<ar \
     adf<ar adp=dz aeb<ar aec<ar afb<ar afr=af aii<syr ajp=apc ajt=aeb aju~jrb aka=ak alb=sq \
     aln<sq als~sq amh=am apc<ar apd<ar ara=ar arb~ar arg=an arm=hy arq<ar ars<ar ary<ar arz<ar \
     asd=snz asm=as aue=ktz auz<ar ava=av ave=ae avl<ar ayc<ay ayh<ar ayl<ar aym=ay ayn<ar \
     ayp<ar ayr~ay ayx=nun azb<az aze=az azj~az",
    "bak=ba bam=bm baq=eu bbz<ar bcc~bal bcl~bik bdt<gba bel=be ben=bn bgm=bcg bgn<bal bgp<bal \
     bgq<raj bhk<bik bhr<mg bic=bir bis=bi bjd=drl bjn<ms bjq<mg blg=iba bln<bik bmm<mg bod=bo \
     bos=bs bre=br bs<sh btj<ms bto<bik bul=bg bur=my bve<ms bvu<ms bxk~luy bxm<bua bxr~bua \
     bxu<bua bzc<mg",
    "cat=ca ccq=rki cdo<zh ces=cs cha=ch che=ce chi=zh chu=cu chv=cv ciw<oj cjr=mom cjy<zh \
     cka=cmr ckb<ku cld~syr cls~sa cmk=xch cmn~zh cnp<zh cnr<sh coa<ms cor=kw cos=co coy=pij \
     cpx<zh cqd<hmn cqu=quh cre=cr crj<cr crk<cr crl<cr crm<cr csp<zh csw<cr cts<bik cwd~cr \
     cym=cy cze=cs czh<zh czo<zh",
    "dan=da dek=sqm deu=de dgo~doi dhd~mwr dib<din dik~din dip<din diq~zza dit=dif div=dv \
     diw<din dks<din drh=khk drr=kzk drw=prs dty<ne dup<ms dut=nl dzo=dz",
    "ebk<bnc ekk~et ell=el emk~man enb<kln eng=en epo=eo esg<gon esi<ik esk~ik est=et eus=eu \
     ewe=ee eyo<kln",
    "fao=fo fas=fa fat<ak fbl<bik ffm<ff fij=fj fin=fi fra=fr fre=fr fry=fy fub<ff fuc~ff fue<ff \
     fuf<ff fuh<ff fui<ff ful=ff fuq<ff fuv<ff",
    "gan<zh gav=dev gax<om gaz~om gbo~grb gbp<gba gbq<gba gda<raj gec<grb geo=ka ger=de gfx=vaj \
     ggn=gvr gju<raj gkp<kpe gla=gd gle=ga glg=gl gli=kzk glv=gv gmm<gba gno~gon gnw<gn gom~kok \
     gre=el grj<grb grn=gn grv<grb gry<grb gso<gba gti=nyc gug~gn gui<gn guj=gu gun<gn guv=duz \
     gya~gba",
    "hae<om hak<zh hat=ht hau=ha hax<hai hbs=sr-Latn hdn~hai hea~hmn heb=he her=hz hin=hi hji<ms \
     hma<hmn hmc<hmn hmd<hmn hme<hmn hmg<hmn hmh<hmn hmi<hmn hmj<hmn hml<hmn hmm<hmn hmo=ho \
     hmp<hmn hmq<hmn hms<hmn hmw<hmn hmy<hmn hmz<hmn hnd<lah hnj<hmn hnm<zh hno<lah hoj<raj \
     hr<sh hrm<hmn hrr=jal hrv=hr hsn<zh huj<hmn hun=hu hye=hy",
    "ibi=opa ibo=ig ice=is id<ms ida<luy ido=io iii=ii ike~iu ikt<iu iku=iu ile=ie ilw=gal in=id \
     ina=ia ind=id ipk=ik isl=is ita=it iw=he",
    "jak<ms jat<lah jav=jv jax<ms jeg=oyb ji=yi jpn=ja jw=jv jye<jrb",
    "kal=kl kan=kn kas=ks kat=ka kau=kr kaz=kk kby<kr kgc=tdf kgh=kml kgm=plu khk~mn khm=km \
     kik=ki kin=rw kir=ky kiu<zza kmr~ku knc~kr kng~kg knn<kok koi<kv koj=kwv kom=kv kon=kg \
     kor=ko kpv~kv krm=bmf krt<kr ktr=dtp kua=kj kur=ku kvb<ms kvr<ms kvs=gdj kwq=yam kwy<kg \
     kxd<ms kxe=tvd kxl=kru kzj=dtp kzt=dtp",
    "lak=ksp lao=lo lat=la lav=lv lbk~bnc lbl<bik lce<ms lcf<ms ldi<kg lii=raq lim=li lin=ln \
     lit=lt liw<ms lkb<luy lko<luy lks<luy llo=ngt lmm=rmx lri<luy lrm<luy lsm<luy ltg<lv \
     lto<luy lts<luy ltz=lb lub=lu lug=lg luh<zh lvs~lv lwg<luy lzh<zh",
    "mac=mk mah=mh mal=ml mao=mi mar=mr max<ms may=ms meg=cir meo<ms mfa<ms mfb<ms mhr~chm \
     min<ms mkd=mk mku<man mlg=mg mlq<man mlt=mt mmr<hmn mnk<man mnp<zh mo=ro mol=ro mon=mn \
     mqg<ms mri=mi mrj<chm msa=ms msc<man msh<mg msi<ms mst=mry mtr<mwr mui<ms mup~raj muq<hmn \
     mve<mwr mvf<mn mwj=vaj mwk<man mww<hmn mya=my myd=aog myq<man myt=mry",
    "nad=xny nan<zh nau=na nav=nv nb~no nbl=nr ncp=kdz nde=nd ndo=ng nep=ne nhd<gn niq<kln \
     nld=nl nle<luy nn<no nno=nn nns=nbr nnx=ngv nob=nb nom=cbr nor=no npi~ne nte=eko nts=pij \
     nxu=bpp nya=ny nyd<luy",
    "obk<bnc oci=oc ojb<oj ojc<oj ojg~oj oji=oj ojs<oj ojw<oj oki<kln orc<om ori=or orm=om \
     orn<ms ors<ms ory~or oss=os otw<oj oun=vaj",
    "pan=pa pat=kxr pbt<ps pbu~ps pcr=adx pel<ms per=fa pes~fa pga<ar phr<lah pko<kln pli=pi \
     plt~mg pmc=huw pmk=crr pmu=phr pnb~lah pol=pl por=pt ppa=bfy ppr=lcq prp=gu prs<fa pry=prt \
     pse<ms pst<ps pus=ps puz=pub",
    "qub<qu qud<qu que=qu quf<qu qug<qu quh<qu quk<qu qul<qu qup<qu qur<qu qus<qu quw<qu qux<qu \
     quy<qu quz~qu qva<qu qvc<qu qve<qu qvh<qu qvi<qu qvj<qu qvl<qu qvm<qu qvn<qu qvo<qu qvp<qu \
     qvs<qu qvw<qu qvz<qu qwa<qu qwc<qu qwh<qu qws<qu qxa<qu qxc<qu qxh<qu qxl<qu qxn<qu qxo<qu \
     qxp<qu qxr<qu qxt<qu qxu<qu qxw<qu",
    "rag<luy rbk<bnc rbl<bik rmc<rom rmf<rom rml<rom rmn<rom rmo<rom rmw<rom rmy~rom roh=rm \
     ron=ro rum=ro run=rn rus=ru rwr<mwr",
    "sag=sg san=sa sca=hle scc=sr scr=hr scs<den sdc<sc sdh<ku sdn<sc sfm<hmn sgc<kln sh=sr-Latn \
     shu<ar sin=si sjc<zh skg<mg skk=oyb skr<lah slk=sk slo=sk slv=sl smd=kmb sme=se smo=sm \
     sna=sn snb=iba snd=sd som=so sot=st spa=es spv<or spy~kln sqi=sq sr<sh src~sc srd=sc sro<sc \
     srp=sr ssh<ar ssw=ss sun=su swa=sw swc<sw swe=sv swh~sw swv<mwr szd=umi",
    "tah=ty tam=ta taq<tmh tat=tt tdu=dtp tdx<mg tec<kln tel=te tgk=tg tgl=fil tha=th thc=tpo \
     thv<tmh thw=ola thx=oyb thz<tmh tib=bo tie=ras tir=ti tkg<mg tkk=twm tl=fil tlw=weo tmk=tdg \
     tmp=tyj tmw<ms tne=kak tnf=prs ton=to tpw=tpn tsf=taj tsn=tn tso=ts ttq~tmh tuk=tk tur=tr \
     tuy<kln tw~ak twi=tw txy<mg",
    "ubl<bik uig=ug ukr=uk umu~del unm<del uok=ema urd=ur urk<ms uzb=uz uzn~uz uzs<uz",
    "vbk<bnc ven=ve vie=vi vkk<ms vkt<ms vol=vo vro<et vsn<sa",
    "wbr<raj wel=cy wln=wa wol=wo wry<mwr wsg<gon wuu<zh",
    "xba=cax xhe<lah xho=xh xia=acn xkh=waw xmm<ms xmv<mg xmw<mg xnr<doi xpe~kpe xrq=dmw xsl~den \
     xss=zko",
    "ybd=rki ydd~yi yhd<jrb yid=yi yih<yi yma=lrr ymt=mtm yor=yo yos=zom yud<jrb yue<zh yuu=yug",
    "zaa<zap zab<zap zac<zap zad<zap zae<zap zaf<zap zai~zap zam<zap zao<zap zaq<zap zar<zap \
     zas<zap zat<zap zav<zap zaw<zap zax<zap zca<zap zcd<zap zch<za zeh<za zgb<za zgm<za zgn<za \
     zha=za zhd<za zhn<za zho=zh zir=scv zkb=kjh zlj<za zlm<ms zln<za zlq<za zmi<ms zoo<zap \
     zpa<zap zpb<zap zpc<zap zpd<zap zpe<zap zpf<zap zpg<zap zph<zap zpi<zap zpj<zap zpk<zap \
     zpl<zap zpm<zap zpn<zap zpo<zap zpp<zap zpq<zap zpr<zap zps<zap zpt<zap zpu<zap zpv<zap \
     zpw<zap zpx<zap zpy<zap zpz<zap zqe<za zsm~ms zsr<zap zte<zap ztg<zap ztl<zap ztm<zap \
     ztn<zap ztp<zap ztq<zap zts<zap ztt<zap ztu<zap ztx<zap zty<zap zul=zu zyb~za zyg<za zyj<za \
     zyn<za zzj<za",
];

/// Tags from before the grammar, and what they are called now; where that is nothing, the tag
/// stands for itself.
pub(super) const GRANDFATHERED: &[(&str, &str)] = &[
    ("art-lojban", "jbo"),
    ("cel-gaulish", ""),
    ("en-GB-oed", "en-GB-oxendict"),
    ("i-ami", "ami"),
    ("i-bnn", "bnn"),
    ("i-default", ""),
    ("i-enochian", ""),
    ("i-hak", "hak"),
    ("i-klingon", "tlh"),
    ("i-lux", "lb"),
    ("i-mingo", ""),
    ("i-navajo", "nv"),
    ("i-pwn", "pwn"),
    ("i-tao", "tao"),
    ("i-tay", "tay"),
    ("i-tsu", "tsu"),
    ("no-bok", "nb"),
    ("no-nyn", "nn"),
    ("sgn-BE-FR", "sfb"),
    ("sgn-BE-NL", "vgt"),
    ("sgn-CH-DE", "sgg"),
    ("zh-guoyu", "cmn"),
    ("zh-hakka", "hak"),
    ("zh-min-nan", "nan"),
    ("zh-xiang", "hsn"),
];

/// A script, and the languages that are written in it unless their tag says otherwise.
pub(super) const SCRIPTS: &[(&str, &str)] = &[
    ("Arab", "ar fa ks ps sd ug ur azb ckb fub kby mfa sdh uzs"),
    ("Armn", "hy"),
    ("Avst", "ae"),
    ("Beng", "as bn"),
    ("Cans", "cr iu oj"),
    ("Cyrl", "ab av ba be bg ce cu cv kk kv ky mk mn os ru sr tg tt uk"),
    ("Deva", "hi mr ne sa"),
    ("Ethi", "am ti"),
    ("Geor", "ka"),
    ("Grek", "el aat"),
    ("Gujr", "gu"),
    ("Guru", "pa"),
    ("Hans", "zh hak nan"),
    ("Hant", "lzh yue"),
    ("Hebr", "he yi"),
    ("Jpan", "ja"),
    ("Khmr", "km"),
    ("Knda", "kn"),
    ("Kore", "ko"),
    ("Laoo", "lo"),
    (
        "Latn",
        "aa af ak an ay az bi bm br bs ca ch co cs cy da de ee en eo es et eu ff fi fj fo fr fy \
         ga gd gl gn gv ha ho hr ht hu hz ia id ie ig ik io is it jv kg ki kj kl kr ku kw la lb \
         lg li ln lt lu lv mg mh mi ms mt na nb nd ng nl nn no nr nv ny oc om pi pl pt qu rm rn \
         ro rw sc se sg sk sl sm sn so sq ss st su sv sw tk tn to tr ts ty uz ve vi vo wa wo xh \
         yo za zu acy ciw cpx fil ikt mnp ojb ojc ojw otw pga",
    ),
    ("Mlym", "ml"),
    ("Mong", "mvf"),
    ("Mymr", "my"),
    ("Orya", "or"),
    ("Sinh", "si"),
    ("Taml", "ta"),
    ("Telu", "te"),
    ("Thaa", "dv"),
    ("Thai", "th urk"),
    ("Tibt", "bo dz"),
    ("Yiii", "ii"),
];

/// A language, another script of its, and the regions where that is the usual one.
pub(super) const REGIONS: &[(&str, &str, &str)] = &[
    ("az", "Arab", "IQ IR"),
    ("az", "Cyrl", "RU"),
    ("ha", "Arab", "CM SD"),
    ("hak", "Hant", "TW"),
    ("kk", "Arab", "AF CN IR MN"),
    ("ku", "Arab", "IQ IR LB"),
    ("ku", "Cyrl", "AM AZ GE TM"),
    ("ky", "Arab", "CN"),
    ("ky", "Latn", "TR"),
    ("mn", "Mong", "CN"),
    ("ms", "Arab", "CC"),
    ("nan", "Hant", "MO TW"),
    ("pa", "Arab", "PK"),
    ("sd", "Deva", "IN"),
    ("sr", "Latn", "ME RO TR"),
    ("tg", "Arab", "PK"),
    ("ug", "Cyrl", "KZ MN"),
    ("uz", "Arab", "AF"),
    ("uz", "Cyrl", "CN"),
    ("yue", "Hans", "CN"),
    ("zh", "Hant", "AU BN GB GF HK ID MO PA PF PH SR TH TW US VN"),
];

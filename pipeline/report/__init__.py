"""Reading results: tables, curves and one self-contained page; nothing here measures or writes an archive.

measured     result rows -> one array per curve          compare    BD-rate, equal quality, bootstrap
published    curves of the literature, with sources      svg, charts    drawings without a library
pictures     pixels -> embedded pictures, error maps     gallery    the worst images, before and after
study        what is compared, and against what          results_page, archive_page    what a page says
page         the template around it
"""

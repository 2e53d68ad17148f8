"""What a request of Label Studio says: its task, its image, what is drawn and typed.

Nothing in a request says which of the regions on the page are prompts. What is known of a region decides:

=============  ===================================================================================================
submitted      in an annotation that was submitted, or in a prediction: never a prompt, unless it has a role
saved          in a draft, which the page saves a few seconds after each change
used           made before the suggestion that was accepted last: it has done its work, unless it is the newest
current        a smart prompt in the newest draft that is not used: it is about the object at hand
ambiguous      a saved rectangle whose tag draws prompts and ordinary regions: a prompt only if it is remembered
remembered     a prompt that we answered before and noted; the page never sends points together with boxes or text
result         a region in the newest draft that has a class and no role: what was found, or drawn by hand
=============  ===================================================================================================
"""

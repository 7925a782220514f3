"""Commands that simulate, measure and attack the loop; running the loop needs none of them."""

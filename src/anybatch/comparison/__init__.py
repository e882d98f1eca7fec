"""What runs say beside each other: rows read from run folders or a study, their statistics, and the findings."""
